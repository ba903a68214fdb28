attune_test(attune_ir_tests unit
  unit/ir_build_test.cpp
  unit/ir_errors_test.cpp
  unit/ir_graph_test.cpp
  unit/ir_intervals_test.cpp
  unit/ir_op_table_test.cpp
  unit/ir_reference_test.cpp
  unit/ir_verify_test.cpp
  LIBS attune_codegen fmt::fmt)
