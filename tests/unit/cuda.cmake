attune_test(attune_cuda_tests unit
  unit/cuda_compile_test.cpp
  unit/cuda_emitter_test.cpp
  unit/cuda_feed_test.cpp
  unit/cuda_golden_test.cpp
  unit/gpu_planner_test.cpp
  LIBS attune_codegen attune_dsl attune_runtime fmt::fmt GTest::gmock
)
# Sanitizers see nothing of kernels that the tests compile.
if(NOT ATTUNE_SANITIZE)
  add_library(attune_variant_case STATIC gpu/variant_case.cpp)
  target_compile_definitions(attune_variant_case PRIVATE ATTUNE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(attune_variant_case PUBLIC attune_options attune_codegen attune_dsl PRIVATE fmt::fmt GTest::gtest)
  attune_test(attune_cuda_host_tests numeric
    gpu/backward_case.cpp
    unit/cuda_host_test.cpp
    unit/exact_sum_test.cpp
    unit/host_kernels.cpp
    LIBS attune_variant_case attune_numeric fmt::fmt ${CMAKE_DL_LIBS}
  )
  set_source_files_properties(unit/exact_sum_test.cpp PROPERTIES COMPILE_OPTIONS -Wno-unknown-pragmas)  # #pragma unroll
endif()
