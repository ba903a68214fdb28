#include "api/attune_c.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstring>
#include <memory>

#include "api/attune.h"
#include "api/kernels.h"
#include "runtime/error.h"

struct attune_program {
  attune::Variant variant;
};

struct attune_plan {
  attune::Plan plan;
  std::string description;
};

namespace {

using attune::ArgumentError;

thread_local std::string last_error;

attune_status fail(attune_status status, const char* message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();  // no memory for the message
  }
  return status;
}

// No exception leaves the library.
template <typename Call>
attune_status guarded(const Call& call) noexcept {
  try {
    call();
    return ATTUNE_OK;
  } catch (const attune::ProgramError& error) {
    return fail(ATTUNE_PROGRAM_ERROR, error.what());
  } catch (const ArgumentError& error) {
    return fail(ATTUNE_ARGUMENT_ERROR, error.what());
  } catch (const attune::EnvironmentError& error) {
    return fail(ATTUNE_ENVIRONMENT_ERROR, error.what());
  } catch (const std::bad_alloc&) {
    return fail(ATTUNE_ENVIRONMENT_ERROR, "out of memory");
  } catch (const std::exception& error) {
    return fail(ATTUNE_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(ATTUNE_INTERNAL_ERROR, "unknown exception");
  }
}

void expect_given(const void* argument, const char* name) {
  if (!argument) throw ArgumentError(fmt::format("{} is null", name));
}

// The C enumerations have the values of the C++ ones.
template <typename Enum>
Enum enum_of(int32_t value, int32_t last, const char* name) {
  if (value < 0 || value > last) throw ArgumentError(fmt::format("{} is {}, expected 0..{}", name, value, last));
  return static_cast<Enum>(value);
}

attune::Tensor tensor_of(const attune_tensor* tensor, const std::string& name) {
  if (!tensor || (tensor->rank == 0 && !tensor->data)) return {};
  if (tensor->rank < 0 || tensor->rank > ATTUNE_MAX_RANK) {
    throw ArgumentError(fmt::format("{}: rank is {}, expected 0..{}", name, tensor->rank, ATTUNE_MAX_RANK));
  }
  const auto rank = static_cast<size_t>(tensor->rank);
  attune::Tensor result;
  result.data = tensor->data;
  result.dtype = enum_of<attune::DType>(tensor->dtype, ATTUNE_U8, (name + ": dtype").c_str());
  result.shape.assign(tensor->shape, tensor->shape + rank);
  result.strides.assign(tensor->strides, tensor->strides + rank);
  return result;
}

attune::Scalar scalar_of(const attune::ParamInfo* info, double number) {
  if (!info) return number;  // whoever takes it reports the name
  if (info->is_bool && (number == 0 || number == 1)) return number == 1;
  return number;
}

void check_params(const attune_param* params, int32_t count) {
  if (count < 0) throw ArgumentError(fmt::format("{} parameters, expected 0 or more", count));
  if (count > 0) expect_given(params, "the array of parameters");
  for (int32_t i = 0; i < count; ++i) expect_given(params[i].name, fmt::format("the name of parameter {}", i).c_str());
}

const attune::ParamInfo* find(const attune::Variant& variant, std::string_view name) {
  for (const attune::ParamInfo& info : variant.params()) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

// Those of any version of the header that this library knows; what an older one does not have is 0.
attune_plan_options known_options(const attune_plan_options& given) {
  attune_plan_options known = {};
  constexpr size_t kLeast = offsetof(attune_plan_options, tiered);
  if (given.size < kLeast || given.size > sizeof(known)) {
    throw ArgumentError(fmt::format("attune_plan_options: size is {}, expected {}..{}; the header is of another version", given.size,
                                    kLeast, sizeof(known)));
  }
  std::memcpy(&known, &given, given.size);
  return known;
}

attune::PlanOptions options_of(const attune::Variant& variant, const attune_plan_options* argument) {
  attune::PlanOptions options;
  if (!argument) return options;
  const attune_plan_options given = known_options(*argument);
  options.tiered = enum_of<bool>(given.tiered, 1, "tiered");
  options.backward = enum_of<bool>(given.backward, 1, "backward");
  options.deterministic = enum_of<bool>(given.deterministic, 1, "deterministic");
  options.dtype = enum_of<attune::DType>(given.dtype, ATTUNE_U8, "dtype");
  options.device.kind = enum_of<attune::Device::Kind>(given.device_kind, ATTUNE_CUDA, "device_kind");
  options.device.ordinal = given.device_ordinal;
  options.accuracy = enum_of<attune::Accuracy>(given.accuracy, ATTUNE_HIGH, "accuracy");
  options.cu_q = given.cu_q;
  options.cu_k = given.cu_k;
  check_params(given.params, given.param_count);
  for (int32_t i = 0; i < given.param_count; ++i) {
    const attune_param& param = given.params[i];
    if (param.tensor) {
      options.tensors[param.name] = tensor_of(param.tensor, fmt::format("parameter '{}'", param.name));
    } else {
      options.scalars[param.name] = scalar_of(find(variant, param.name), param.number);
    }
  }
  return options;
}

}  // namespace

const char* attune_version(void) {
  static const std::string* version = new std::string(attune::attune_version());
  return version->c_str();
}

int32_t attune_abi_version(void) {
  return ATTUNE_ABI_VERSION;
}

const char* attune_last_error(void) {
  return last_error.c_str();
}

attune_status attune_compile(const char* text, const attune_param* constants, int32_t constant_count, attune_program** program) {
  return guarded([&] {
    expect_given(text, "text");
    expect_given(program, "program");
    check_params(constants, constant_count);
    attune::CompileOptions options;
    for (int32_t i = 0; i < constant_count; ++i) {
      if (constants[i].tensor) throw ArgumentError(fmt::format("constant '{}' is a tensor, expected a number", constants[i].name));
      options.constants[constants[i].name] = constants[i].number;
    }
    *program = new attune_program{attune::compile(text, options)};
  });
}

void attune_program_release(attune_program* program) {
  delete program;
}

attune_status attune_plan_make(const attune_program* program, const attune_shape* shape, const attune_plan_options* options,
                               attune_plan** plan) {
  return guarded([&] {
    expect_given(program, "program");
    expect_given(shape, "shape");
    expect_given(plan, "plan");
    const attune::Shape sizes = {shape->batch, shape->heads, shape->kv_heads, shape->q_len, shape->k_len, shape->head_dim, shape->v_dim};
    auto made = std::make_unique<attune_plan>(attune_plan{program->variant.plan(sizes, options_of(program->variant, options)), {}});
    made->description = made->plan.describe();
    *plan = made.release();
  });
}

void attune_plan_release(attune_plan* plan) {
  delete plan;
}

int32_t attune_plan_is_tuned(const attune_plan* plan) {
  return plan && plan->plan.is_tuned() ? 1 : 0;
}

attune_status attune_plan_wait_until_tuned(const attune_plan* plan) {
  return guarded([&] {
    expect_given(plan, "plan");
    plan->plan.wait_until_tuned();
  });
}

size_t attune_plan_workspace_size(const attune_plan* plan) {
  return plan ? plan->plan.workspace_bytes() : 0;
}

attune_status attune_plan_backward_workspace_size(const attune_plan* plan, size_t* size) {
  return guarded([&] {
    expect_given(plan, "plan");
    expect_given(size, "size");
    *size = plan->plan.backward_workspace_bytes();
  });
}

const char* attune_plan_describe(const attune_plan* plan) {
  return plan ? plan->description.c_str() : "";
}

attune_status attune_plan_forward(const attune_plan* plan, const attune_tensor* q, const attune_tensor* k, const attune_tensor* v,
                                  const attune_tensor* out, const attune_tensor* lse, void* stream, void* workspace) {
  return guarded([&] {
    expect_given(plan, "plan");
    plan->plan.forward({tensor_of(q, "tensor 'q'"), tensor_of(k, "tensor 'k'"), tensor_of(v, "tensor 'v'"), tensor_of(out, "tensor 'out'"),
                        tensor_of(lse, "tensor 'lse'"), stream, workspace});
  });
}

attune_status attune_plan_backward(const attune_plan* plan, const attune_backward_tensors* tensors, void* stream, void* workspace) {
  return guarded([&] {
    expect_given(plan, "plan");
    expect_given(tensors, "tensors");
    if (tensors->size != sizeof(*tensors)) {
      throw ArgumentError(fmt::format("attune_backward_tensors: size is {}, expected {}; the header is of another version", tensors->size,
                                      sizeof(*tensors)));
    }
    if (tensors->gradient_count < 0) throw ArgumentError(fmt::format("{} gradients, expected 0 or more", tensors->gradient_count));
    if (tensors->gradient_count > 0) expect_given(tensors->gradients, "the array of gradients");
    attune::BackwardTensors call;
    call.q = tensor_of(tensors->q, "tensor 'q'");
    call.k = tensor_of(tensors->k, "tensor 'k'");
    call.v = tensor_of(tensors->v, "tensor 'v'");
    call.out = tensor_of(tensors->out, "tensor 'out'");
    call.lse = tensor_of(tensors->lse, "tensor 'lse'");
    call.dout = tensor_of(tensors->dout, "tensor 'dout'");
    call.dq = tensor_of(tensors->dq, "tensor 'dq'");
    call.dk = tensor_of(tensors->dk, "tensor 'dk'");
    call.dv = tensor_of(tensors->dv, "tensor 'dv'");
    for (int32_t i = 0; i < tensors->gradient_count; ++i) {
      const attune_gradient& gradient = tensors->gradients[i];
      expect_given(gradient.name, fmt::format("the name of gradient {}", i).c_str());
      call.param_grads[gradient.name] = tensor_of(gradient.tensor, fmt::format("gradient of '{}'", gradient.name));
    }
    call.stream = stream;
    call.workspace = workspace;
    plan->plan.backward(call);
  });
}
