# The two commands of the README are `make demo` and `make test`; each installs what is missing, saying so, builds and runs.
.PHONY: demo test release asan dependencies ci-dependencies format check-format tidy bench clean

# A compiler cache is used where there is one.
ifneq ($(shell command -v ccache 2>/dev/null),)
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
endif

# Where there is no CUDA toolkit, `make dependencies` puts NVRTC here.
ifeq ($(wildcard /usr/local/cuda/lib64/libnvrtc.so.13),)
export ATTUNE_NVRTC ?= $(CURDIR)/build/nvrtc/nvidia/cu13/lib/libnvrtc.so.13
endif

demo: release
	@mkdir -p build/demo
	build/release/attune_demo examples
	build/release/attune explain examples/window.attn --shape 1,512,512,4,4,32,32 --picture build/demo/window.svg
	@echo "The mask of examples/window.attn and how its tiles are classed: build/demo/window.svg"

test: dependencies
	cmake --preset dev
	cmake --build --preset dev
	ctest --preset dev -j "$$(nproc)"

# What ships: build/release/attune is one file that needs only the C library.
release: dependencies
	cmake --preset release
	cmake --build --preset release --target attune_cli attune_demo

# Fewer random programs than `make test`, each many times slower.
asan: dependencies
	cmake --preset asan
	cmake --build --preset asan
	ATTUNE_RANDOM_COUNT=$${ATTUNE_RANDOM_COUNT:-60} ctest --preset asan -j "$$(nproc)"

dependencies:
	@scripts/install_dependencies.sh

ci-dependencies:
	@scripts/install_dependencies.sh --ci

sources = $(shell git ls-files '*.h' '*.cpp')

format: ci-dependencies
	clang-format-19 -i $(sources)

check-format: ci-dependencies
	clang-format-19 --dry-run -Werror $(sources)

tidy: ci-dependencies
	cmake --preset dev
	cmake --build --preset dev
	run-clang-tidy-19 -quiet -p build/dev -extra-arg=-Wno-unknown-warning-option -extra-arg=-Wno-ignored-gch '/(dsl|codegen|runtime|api|cli)/[^/]*\.cpp$$'

# The table of the README; needs bench/requirements.txt in the Python at hand.
bench: release
	cmake --build --preset release --target attune_cpu_bench
	python3 bench/cpu_attention.py --readme

clean:
	rm -rf build
