/* The stable C ABI of Attune: compile -> plan -> forward and backward, on the CPU or an NVIDIA GPU. Everything is plain data; no header of
 * CUDA is needed.
 *
 * Functions that can fail return an attune_status; attune_last_error() then has the whole message, of this thread. Handles are released by
 * the function of their name; releasing null does nothing. Calls on one plan are safe from several threads, each with its own workspace. */
#ifndef ATTUNE_C_H
#define ATTUNE_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ATTUNE_ABI_VERSION 1
#define ATTUNE_MAX_RANK 6

typedef enum attune_status {
  ATTUNE_OK = 0,
  ATTUNE_PROGRAM_ERROR = 1,     /* the program is wrong: all its diagnostics */
  ATTUNE_ARGUMENT_ERROR = 2,    /* the call is wrong: what was found and what was expected */
  ATTUNE_ENVIRONMENT_ERROR = 3, /* the machine failed: driver, compiler, files */
  ATTUNE_INTERNAL_ERROR = 4
} attune_status;

typedef enum attune_dtype { ATTUNE_F32 = 0, ATTUNE_F16 = 1, ATTUNE_BF16 = 2, ATTUNE_I32 = 3, ATTUNE_U8 = 4 } attune_dtype;
typedef enum attune_device_kind { ATTUNE_CPU = 0, ATTUNE_CUDA = 1 } attune_device_kind;
typedef enum attune_accuracy { ATTUNE_FAST = 0, ATTUNE_HIGH = 1 } attune_accuracy;

/* A tensor in the device's memory. Strides in elements; rank 0 or data null: not given. */
typedef struct attune_tensor {
  void* data;
  int32_t dtype; /* attune_dtype */
  int32_t rank;
  int64_t shape[ATTUNE_MAX_RANK];
  int64_t strides[ATTUNE_MAX_RANK];
} attune_tensor;

/* A value of a parameter, by name: `tensor` for tensors and `grad` scalars, else `number` (bool: 0 or 1). */
typedef struct attune_param {
  const char* name;
  double number;
  const attune_tensor* tensor; /* null: `number` counts */
} attune_param;

typedef struct attune_shape {
  int64_t batch, heads, kv_heads, q_len, k_len, head_dim, v_dim;
} attune_shape;

typedef struct attune_plan_options {
  size_t size; /* sizeof(attune_plan_options) */
  int32_t dtype;
  int32_t device_kind, device_ordinal;
  int32_t accuracy;
  const attune_param* params;
  int32_t param_count;
  const int32_t *cu_q, *cu_k; /* packed sequences: batch + 1 offsets in host memory; both or neither */
  /* The size may end here: then what follows is 0. */
  int32_t tiered;   /* GPU: 1: not yet compiled, the plan starts with a kernel that compiles faster; the tuned one follows by itself */
  int32_t backward; /* 1: the backward pass is compiled with the plan, not by its first call */
  /* Or here. */
  int32_t deterministic; /* GPU: 1: the backward pass has the same bits from call to call; the CPU's always has */
} attune_plan_options;

typedef struct attune_program attune_program;
typedef struct attune_plan attune_plan;

const char* attune_version(void);
int32_t attune_abi_version(void);
const char* attune_last_error(void);

/* `constants` are values of `const` parameters. */
attune_status attune_compile(const char* text, const attune_param* constants, int32_t constant_count, attune_program** program);
void attune_program_release(attune_program* program);

/* Compiles what is missing. `options` may be null: f32 on the CPU. */
attune_status attune_plan_make(const attune_program* program, const attune_shape* shape, const attune_plan_options* options,
                               attune_plan** plan);
void attune_plan_release(attune_plan* plan);

/* A tiered plan: 1 if calls run tuned kernels by now, else 0; and wait for that, or get the error that stopped their compilation. Other
 * plans are tuned from the start. Release cancels the compilation. */
int32_t attune_plan_is_tuned(const attune_plan* plan);
attune_status attune_plan_wait_until_tuned(const attune_plan* plan);

/* Bytes of device memory that a call wants, 16-aligned, zero before the first call; each call leaves it zero where that matters. */
size_t attune_plan_workspace_size(const attune_plan* plan);
/* The same of a backward call, which needs its own; compiles nothing. */
attune_status attune_plan_backward_workspace_size(const attune_plan* plan, size_t* size);
/* One line: device, skeleton, tiles. Valid as long as the plan. */
const char* attune_plan_describe(const attune_plan* plan);

/* q, out [batch, q_len, heads, dim], k, v [batch, k_len, kv_heads, dim], packed [total, heads, dim]; lse (may be null) f32 [batch, heads,
 * q_len]. `stream` and `workspace` are a GPU's (null workspace: the plan's own, which serves one stream at a time). Nothing waits for the
 * GPU. */
attune_status attune_plan_forward(const attune_plan* plan, const attune_tensor* q, const attune_tensor* k, const attune_tensor* v,
                                  const attune_tensor* out, const attune_tensor* lse, void* stream, void* workspace);

/* The gradient of a `grad` parameter: f32, the shape of the bound parameter, any strides. */
typedef struct attune_gradient {
  const char* name;
  const attune_tensor* tensor;
} attune_gradient;

/* Shapes and dtypes as in attune_plan_forward; `out` and `lse` of softmax only, as the forward pass gave them. Written, not added to: dq as
 * q, dk as k, dv as v, each may be null, and `gradients`. */
typedef struct attune_backward_tensors {
  size_t size; /* sizeof(attune_backward_tensors) */
  const attune_tensor *q, *k, *v, *out, *lse, *dout;
  const attune_tensor *dq, *dk, *dv;
  const attune_gradient* gradients;
  int32_t gradient_count;
} attune_backward_tensors;

attune_status attune_plan_backward(const attune_plan* plan, const attune_backward_tensors* tensors, void* stream, void* workspace);

#ifdef __cplusplus
}
#endif

#endif
