# Headers that most sources include, compiled once: they are half of the time of a build. Not where a compiler cache is used, which does not
# look into them, and not in the release build, where a source that lacks an include fails.
if(CMAKE_CXX_COMPILER_LAUNCHER OR ATTUNE_STATIC_LLVM)
  set(attune_precompiled_default OFF)
else()
  set(attune_precompiled_default ON)
endif()
option(ATTUNE_PRECOMPILED "Compile common headers once" ${attune_precompiled_default})

# attune_precompile(KIND TARGET headers...): the first target of a kind compiles the headers, the others reuse that. They need the same options
# and the same kind of position-independent code, so programs and libraries are kinds apart.
function(attune_precompile kind target)
  if(NOT ATTUNE_PRECOMPILED)
    return()
  endif()
  get_property(owner GLOBAL PROPERTY attune_precompiled_${kind})
  if(owner)
    target_precompile_headers(${target} REUSE_FROM ${owner})
  else()
    set_property(GLOBAL PROPERTY attune_precompiled_${kind} ${target})
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()

set(attune_common_headers <algorithm> <array> <cmath> <filesystem> <fstream> <functional> <map> <memory> <optional> <random> <set> <sstream>
  <string> <vector> <fmt/format.h>)
