# What needs a GPU; without one it says that it is skipped. In the release build each is one file that needs only the C library, so that it
# can be carried to a machine with a GPU and run there as it is.
# attune_gpu_test(NAME sources... LIBS targets...)
function(attune_gpu_test name)
  attune_test(${name} gpu ${ARGN})
  set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "GPU tests skipped: " RESOURCE_LOCK gpu)
  if(ATTUNE_STATIC_LLVM)
    target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc LINKER:--as-needed,--gc-sections,--strip-all)
  endif()
endfunction()

attune_gpu_test(attune_gpu_executor_tests gpu/gpu_executor_test.cpp LIBS attune_runtime fmt::fmt)

# The programs of examples/ as strings.
file(GLOB attune_example_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/examples/*.attn)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${attune_example_files})
set(attune_example_rows "")
foreach(file ${attune_example_files})
  get_filename_component(name ${file} NAME_WE)
  file(READ ${file} content)
  string(APPEND attune_example_rows "    {\"${name}\", R\"ATTN(${content})ATTN\"},\n")
endforeach()
configure_file(gpu/embedded_examples.h.in ${CMAKE_CURRENT_BINARY_DIR}/embedded/tests/gpu/embedded_examples.h @ONLY)

add_library(attune_gpu_cases STATIC gpu/backward_call.cpp gpu/forward_call.cpp gpu/gpu_cases.cpp gpu/rounding_model.cpp)
target_include_directories(attune_gpu_cases PUBLIC ${CMAKE_CURRENT_BINARY_DIR}/embedded)
target_link_libraries(attune_gpu_cases PUBLIC attune_numeric attune_runtime)
attune_gpu_test(attune_gpu_forward_tests gpu/gpu_forward_test.cpp LIBS attune_gpu_cases)
attune_gpu_test(attune_gpu_backward_tests gpu/gpu_backward_test.cpp LIBS attune_gpu_cases)
attune_gpu_test(attune_cuda_variant_tests gpu/cuda_variant_test.cpp LIBS attune_variant_case attune_runtime fmt::fmt)

add_test(NAME cli_gpu_test COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/gpu/cli_gpu_test.py)
set_tests_properties(cli_gpu_test PROPERTIES
  LABELS gpu ENVIRONMENT "ATTUNE_BINARY=$<TARGET_FILE:attune_cli>" SKIP_REGULAR_EXPRESSION "GPU tests skipped: " RESOURCE_LOCK gpu)
