attune_test(npy_test unit unit/npy_test.cpp LIBS attune_npy)
attune_test(cli_parts_test unit unit/cli_parts_test.cpp LIBS attune_cli_lib)

# The binary as users have it, from a script that needs nothing but Python.
find_package(Python3 COMPONENTS Interpreter REQUIRED)
add_test(NAME cli_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/unit/cli_test.py -v)
set_tests_properties(cli_test PROPERTIES LABELS unit TIMEOUT 900
  ENVIRONMENT "ATTUNE_BINARY=$<TARGET_FILE:attune_cli>;ATTUNE_VERSION=${PROJECT_VERSION}")

# What ships is one file that needs only the C library.
if(ATTUNE_STATIC_LLVM)
  add_test(NAME cli_standalone_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/unit/cli_standalone_test.py)
  set_tests_properties(cli_standalone_test PROPERTIES LABELS release TIMEOUT 60 ENVIRONMENT "ATTUNE_BINARY=$<TARGET_FILE:attune_cli>")
endif()
