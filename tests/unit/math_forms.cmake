attune_test(math_forms_test unit unit/math_forms_test.cpp LIBS attune_codegen)
