add_library(attune_numeric STATIC
  numeric/comparison.cpp
  numeric/example_files.cpp
  numeric/guarded_tensor.cpp
  numeric/numeric_case.cpp
  numeric/program_writer.cpp
  numeric/random_data.cpp
  numeric/random_program.cpp
  numeric/run_case.cpp
)
target_compile_definitions(attune_numeric PRIVATE ATTUNE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
target_include_directories(attune_numeric PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/numeric)
target_link_libraries(attune_numeric PUBLIC attune_options attune attune_codegen attune_dsl fmt::fmt)
attune_precompile(library attune_numeric ${attune_common_headers})

attune_test(attune_reference_gradients numeric numeric/reference_gradients_test.cpp LIBS attune_numeric)
attune_test(attune_random_programs numeric numeric/random_programs_test.cpp LIBS attune_numeric)
# The longest by far: first, not last.
set_tests_properties(attune_random_programs PROPERTIES COST 1000)
attune_test(attune_examples numeric numeric/examples_test.cpp LIBS attune_numeric)
