attune_test(attune_passes_tests unit
  unit/passes_autodiff_test.cpp
  unit/passes_fold_scale_test.cpp
  unit/passes_golden_test.cpp
  unit/passes_lower_test.cpp
  unit/passes_pair_sums_test.cpp
  unit/passes_print_test.cpp
  unit/passes_rates_test.cpp
  unit/passes_score_line_test.cpp
  unit/passes_simplify_test.cpp
  LIBS attune_codegen attune_dsl fmt::fmt
)
