attune_test(attune_dsl_tests unit
  unit/dsl_builder_test.cpp
  unit/dsl_diagnostics_test.cpp
  unit/dsl_error_files_test.cpp
  unit/dsl_lexer_test.cpp
  unit/dsl_limits_test.cpp
  unit/dsl_parser_test.cpp
  unit/dsl_precedence_test.cpp
  unit/dsl_printer_test.cpp
  LIBS attune_dsl fmt::fmt nlohmann_json::nlohmann_json)
