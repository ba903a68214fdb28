attune_test(attune_cuda_tests unit
  unit/cuda_compile_test.cpp
  unit/cuda_emitter_test.cpp
  unit/cuda_golden_test.cpp
  LIBS attune_codegen attune_dsl attune_runtime fmt::fmt GTest::gmock
)
