# Objects to be linked at run time: plain ones, whatever the options of the project are.
foreach(object runtime_linked_object runtime_undefined_object)
  add_library(${object} OBJECT unit/${object}.cpp)
  target_compile_options(${object} PRIVATE -O1 -fno-exceptions -fno-asynchronous-unwind-tables -fno-stack-protector)
endforeach()

attune_test(runtime_tests unit
  unit/runtime_cache_test.cpp
  unit/runtime_executor_test.cpp
  unit/runtime_gradients_test.cpp
  unit/runtime_host_test.cpp
  unit/runtime_linker_test.cpp
  unit/runtime_threads_test.cpp
  LIBS attune_runtime fmt::fmt)
target_compile_definitions(runtime_tests PRIVATE
  ATTUNE_TEST_OBJECT="$<TARGET_OBJECTS:runtime_linked_object>"
  ATTUNE_TEST_UNDEFINED_OBJECT="$<TARGET_OBJECTS:runtime_undefined_object>")
# Threads that have to meet in time.
set_tests_properties(runtime_tests PROPERTIES RUN_SERIAL ON)
add_dependencies(runtime_tests runtime_linked_object runtime_undefined_object)
