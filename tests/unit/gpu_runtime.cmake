attune_test(gpu_runtime_tests unit
  unit/gpu_runtime_test.cpp
  LIBS attune_runtime fmt::fmt)

# A driver that records what it is asked for, found before any other: the loader looks into the program's own path first.
add_library(attune_fake_cuda SHARED unit/fake_cuda.cpp)
target_link_libraries(attune_fake_cuda PRIVATE attune_options)
set_target_properties(attune_fake_cuda PROPERTIES OUTPUT_NAME cuda SUFFIX .so.1 NO_SONAME ON
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/fake_driver)

function(attune_use_fake_driver name)
  set_target_properties(${name} PROPERTIES BUILD_RPATH ${CMAKE_CURRENT_BINARY_DIR}/fake_driver)
  target_link_options(${name} PRIVATE LINKER:--disable-new-dtags)
  add_dependencies(${name} attune_fake_cuda)
endfunction()

attune_test(gpu_executor_tests unit unit/gpu_executor_test.cpp LIBS attune_runtime fmt::fmt)
attune_use_fake_driver(gpu_executor_tests)
# Measures the time of a call.
set_tests_properties(gpu_executor_tests PROPERTIES RUN_SERIAL ON)
