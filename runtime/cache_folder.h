// Where compiled kernels are kept between runs: $ATTUNE_CACHE_DIR, else $XDG_CACHE_HOME/attune, else $HOME/.cache/attune, and in it a
// folder of the version. Kernels are code that this process will run, so a folder that somebody else could write to is refused.
#pragma once

#include <string>
#include <string_view>

namespace attune::runtime {

struct CacheFolder {
  std::string path;     // absolute, of the version's folder; empty if there is no place for it
  std::string problem;  // why it cannot be used; empty if it can

  bool usable() const { return problem.empty(); }
};

// Finds the folder by the environment and creates what is missing, for the owner alone. Never throws; a problem is logged once.
CacheFolder open_cache_folder(std::string_view version);

}  // namespace attune::runtime
