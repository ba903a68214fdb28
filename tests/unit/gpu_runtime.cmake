attune_test(gpu_runtime_tests unit
  unit/gpu_runtime_test.cpp
  LIBS attune_runtime fmt::fmt)
