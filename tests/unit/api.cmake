attune_test(api_tests unit
  unit/api_cache_test.cpp
  unit/api_compile_test.cpp
  unit/api_errors_test.cpp
  unit/api_explain_test.cpp
  unit/api_numeric_test.cpp
  unit/api_packed_test.cpp
  LIBS attune fmt::fmt)
