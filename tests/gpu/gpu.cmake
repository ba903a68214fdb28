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
attune_gpu_test(attune_cuda_variant_tests gpu/cuda_variant_test.cpp LIBS attune_variant_case attune_runtime fmt::fmt)
