# libFuzzer on the front end, with clang and ATTUNE_FUZZ=ON:
#   attune_parse_fuzz -dict=tests/fuzz/attn.dict -max_len=4096 -max_total_time=300 NEW_CORPUS_FOLDER tests/fuzz/corpus
# Everything that it reaches is compiled again, with the instrumentation.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  message(FATAL_ERROR "ATTUNE_FUZZ needs clang, found ${CMAKE_CXX_COMPILER_ID}")
endif()
set(attune_fuzz_sources ${PROJECT_SOURCE_DIR}/tests/fuzz/parse_fuzz.cpp)
foreach(target attune_dsl attune_codegen)
  get_target_property(folder ${target} SOURCE_DIR)
  get_target_property(sources ${target} SOURCES)
  list(TRANSFORM sources PREPEND ${folder}/ REGEX "^[^/]") # a generated source has its whole path
  list(APPEND attune_fuzz_sources ${sources})
endforeach()
add_executable(attune_parse_fuzz ${attune_fuzz_sources})
target_compile_options(attune_parse_fuzz PRIVATE -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
target_link_options(attune_parse_fuzz PRIVATE -fsanitize=fuzzer,address,undefined)
target_link_libraries(attune_parse_fuzz PRIVATE attune_options fmt::fmt nlohmann_json::nlohmann_json)
attune_precompile(fuzz attune_parse_fuzz ${attune_common_headers})
