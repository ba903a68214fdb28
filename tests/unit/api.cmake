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

# The header is C; the library is what is shipped.
enable_language(C)
add_library(attune_c11_test OBJECT unit/c_abi_c11.c)
set_target_properties(attune_c11_test PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
target_include_directories(attune_c11_test PRIVATE ${PROJECT_SOURCE_DIR})
target_compile_options(attune_c11_test PRIVATE -Wall -Wextra -Wpedantic -Wstrict-prototypes $<$<BOOL:${ATTUNE_WERROR}>:-Werror>)
attune_test(c_abi_tests unit unit/c_abi_test.cpp $<TARGET_OBJECTS:attune_c11_test> LIBS attune_c GTest::gmock)
find_package(Python3 COMPONENTS Interpreter REQUIRED)
add_test(NAME c_abi_symbols_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/unit/c_abi_symbols_test.py)
set_tests_properties(c_abi_symbols_test PROPERTIES LABELS unit TIMEOUT 60
  ENVIRONMENT "ATTUNE_LIBRARY=$<TARGET_FILE:attune_c>;ATTUNE_HEADER=${PROJECT_SOURCE_DIR}/api/attune_c.h")
