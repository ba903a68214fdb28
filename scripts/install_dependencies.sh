#!/usr/bin/env bash
# Installs what building and testing Attune needs on Debian 12, and says what it installs. Does nothing if all is there.
#   scripts/install_dependencies.sh          to build and test
#   scripts/install_dependencies.sh --ci     also what continuous integration checks with (formatter, linter, clang for the fuzzer)
set -euo pipefail

# Package and the least upstream version that will do, without Debian's epoch; docs/dependencies.md says what each is for.
packages=(
  "g++ 12" "cmake 3.25" "ninja-build 1.10" "pkg-config 1.8" "python3 3.11"
  "llvm-19-dev 19.1" "libzstd-dev 1.5" "zlib1g-dev 1.2" "libfmt-dev 9.1" "libxxhash-dev 0.8"
  "libcli11-dev 2.1" "nlohmann-json3-dev 3.11" "libgtest-dev 1.12" "libgmock-dev 1.12"
)
if [[ ${1:-} == --ci ]]; then packages+=("git 2" "clang-format-19 19.1" "clang-tidy-19 19.1" "clang-19 19.1" "libclang-rt-19-dev 19.1"); fi

fail() { echo "install_dependencies: $1" >&2; exit 2; }

# "" if the package is there and new enough, else what is found.
problem() {
  local name=$1 least=$2 state version
  read -r state version < <(dpkg-query -W -f='${db:Status-Status} ${Version}\n' "$name" 2>/dev/null || echo "missing -") || true
  if [[ $state != installed ]]; then echo missing; return; fi
  dpkg --compare-versions "${version#*:}" ge "$least" || echo "$version"
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
  fail "no apt here: install these (name, least version) in your system's way: $(printf '%s; ' "${packages[@]}")"

install_packages() {
  local as_root=() attempt
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || fail "missing: $*; run this as root or install sudo"
    as_root=(sudo)
  fi
  echo "Installing from the distribution: $*"
  for attempt in 1 2 3; do
    if "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; then return; fi
    if [[ $attempt == 3 ]]; then fail "apt-get failed three times"; fi
    echo "apt-get failed, trying again" >&2
    sleep $((attempt * 5))
  done
}

missing=()
for entry in "${packages[@]}"; do
  [[ -z $(problem $entry) ]] || missing+=("${entry% *}")
done
if [[ ${#missing[@]} != 0 ]]; then
  install_packages "${missing[@]}"
  for entry in "${packages[@]}"; do
    found=$(problem $entry)
    [[ -z $found ]] || fail "${entry% *}: found $found, expected at least ${entry#* }"
  done
fi

# NVRTC turns generated CUDA into machine code, also where there is no GPU. Where there is no CUDA toolkit it comes from PyPI.
nvrtc=${ATTUNE_NVRTC:-build/nvrtc/nvidia/cu13/lib/libnvrtc.so.13}
if [[ ! -e /usr/local/cuda/lib64/libnvrtc.so.13 && ! -e $nvrtc ]]; then
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  echo "Installing from PyPI into build/nvrtc: nvidia-cuda-nvrtc 13.0"
  python3 -m pip install --quiet --target build/nvrtc 'nvidia-cuda-nvrtc==13.0.*' || fail "pip could not install nvidia-cuda-nvrtc 13.0"
fi
