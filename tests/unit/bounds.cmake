attune_test(bounds_test unit
  unit/bounds_fold_test.cpp
  unit/bounds_index_test.cpp
  unit/bounds_mask_test.cpp
  unit/bounds_random_test.cpp
  unit/bounds_region_test.cpp
  LIBS attune_codegen attune_dsl fmt::fmt)
