attune_test(api_tests unit
  unit/api_cache_test.cpp
  unit/api_compile_test.cpp
  unit/api_errors_test.cpp
  unit/api_explain_test.cpp
  unit/api_numeric_test.cpp
  unit/api_packed_test.cpp
  LIBS attune fmt::fmt)

attune_test(api_gpu_tests unit unit/api_gpu_test.cpp LIBS attune attune_codegen attune_dsl attune_runtime fmt::fmt GTest::gmock)
attune_use_fake_driver(api_gpu_tests)
