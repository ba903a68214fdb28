/* attune_c.h from C11: it compiles as C, and a plan runs. Returns what failed first, null if nothing did. */
#include <string.h>

#include "api/attune_c.h"

enum { kQueries = 3, kKeys = 4, kDim = 2 };

static attune_tensor tensor_of(float* data, int64_t len) {
  attune_tensor tensor = {.data = data, .dtype = ATTUNE_F32, .rank = 4, .shape = {1, len, 1, kDim}, .strides = {len * kDim, kDim, kDim, 1}};
  return tensor;
}

const char* attune_c11_run(float* out) {
  static const char kText[] = "attention mean(gain: f32 = 1) {\n  score = qk * gain\n  weights = softmax(score)\n}\n";
  float q[kQueries * kDim] = {0}, k[kKeys * kDim] = {0}, v[kKeys * kDim];
  for (int i = 0; i < kKeys * kDim; ++i) v[i] = (float)i;
  attune_program* program = NULL;
  if (attune_compile(kText, NULL, 0, &program) != ATTUNE_OK) return attune_last_error();
  const attune_shape shape = {.batch = 1, .heads = 1, .kv_heads = 1, .q_len = kQueries, .k_len = kKeys, .head_dim = kDim, .v_dim = kDim};
  const attune_param gain = {.name = "gain", .number = 2};
  const attune_plan_options options = {.size = sizeof options, .params = &gain, .param_count = 1};
  attune_plan* plan = NULL;
  const char* failure = NULL;
  if (attune_plan_make(program, &shape, &options, &plan) != ATTUNE_OK) {
    failure = attune_last_error();
  } else {
    const attune_tensor of_q = tensor_of(q, kQueries), of_k = tensor_of(k, kKeys), of_v = tensor_of(v, kKeys),
                        of_out = tensor_of(out, kQueries);
    if (attune_plan_forward(plan, &of_q, &of_k, &of_v, &of_out, NULL, NULL, NULL) != ATTUNE_OK) failure = attune_last_error();
  }
  attune_plan_release(plan);
  attune_program_release(program);
  return failure;
}
