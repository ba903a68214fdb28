// Cannot be linked: it calls what nobody defines. See runtime_linker_test.cpp.
extern "C" int attune_no_such_function(int);
extern "C" int calls_nowhere(int x) {
  return attune_no_such_function(x);
}
