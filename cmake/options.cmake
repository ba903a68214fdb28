# Warnings and sanitizers for every target of ours: link to attune_options.
add_library(attune_options INTERFACE)
target_include_directories(attune_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(attune_options INTERFACE -Wall -Wextra $<$<BOOL:${ATTUNE_WERROR}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 warns of overlapping copies inside its own std::string operator+ (GCC bug 105651).
  target_compile_options(attune_options INTERFACE -Wno-restrict)
endif()
if(ATTUNE_SANITIZE)
  target_compile_options(attune_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(attune_options INTERFACE -fsanitize=address,undefined)
endif()
