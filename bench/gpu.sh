#!/usr/bin/env bash
# Everything that needs a GPU, in one call: tests first, then benchmarks, each part in a process of its own and under a time limit. A part that fails does not stop
# the others, but makes the exit code 1. Without a GPU it says "skipped" and exits with 0.
#
#   bench/gpu.sh [tests] [sanitizer] [main] [dims] [variants] [small] [backward] [gradients] [latency] [all]       (no argument: all)
#
# BUILD        build folder with tests/attune_gpu_*, attune and libattune.so (build/release)
# OUT          folder for the results and gpu.log (bench/results)
# BENCH_ARGS   more arguments for bench/gpu_attention.py, such as "--flex" or "--quick --seconds 0.2"
# TIME_LIMIT   seconds for each part (600)
set -uo pipefail
cd "$(dirname "$0")/.."
export BUILD=${BUILD:-build/release} OUT=${OUT:-bench/results}
TIME_LIMIT=${TIME_LIMIT:-600}
PYTHON=${PYTHON:-python3}

known="tests sanitizer main dims variants small backward gradients latency"
sections=${*:-all}
if [[ " $sections " == *" all "* ]]; then sections=$known; fi
for section in $sections; do
  [[ " $known " == *" $section "* ]] || { echo "gpu.sh: expected $known or all, found '$section'" >&2; exit 2; }
done
if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then echo "skipped: no GPU"; exit 0; fi
mkdir -p "$OUT"
: >"$OUT/gpu.log"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader

summary=() failed=0

# part NAME COMMAND...: runs it, its output on the screen and in OUT/gpu.log, and keeps how it ended.
part() {
  local name=$1 start=$SECONDS code result output
  shift
  output=$(mktemp)
  printf '\n==== %s\n' "$name" | tee -a "$OUT/gpu.log"
  timeout --kill-after=10 "$TIME_LIMIT" "$@" 2>&1 | tee -a "$OUT/gpu.log" "$output"
  code=${PIPESTATUS[0]}
  case $code in
    0) result=ok; if grep -qE '^skipped:|GPU tests skipped' "$output"; then result="skipped: $(grep -m1 -oE '(^|GPU tests )skipped: .*' "$output" | sed 's/.*skipped: //')"; fi ;;
    124 | 137) result="FAILED: over $TIME_LIMIT s" ;;
    *) result="FAILED: exit code $code" ;;
  esac
  rm -f "$output"
  note "$name" "$result" $((SECONDS - start))
}

# note NAME RESULT SECONDS
note() {
  [[ $2 == ok* || $2 == skipped* ]] || failed=1
  summary+=("$(printf '%-48s %5s s  %s' "$1" "$3" "$2")")
}

gpu_tests() {
  local binary found=0
  for binary in "$BUILD"/tests/attune_gpu_*; do
    [[ -f $binary && -x $binary ]] || continue
    found=1
    "$@" "$binary"
  done
  [[ $found == 1 ]] || note "$*" "FAILED: no $BUILD/tests/attune_gpu_*" 0
}

run_tests() { part "$(basename "$1")" "$1" --gtest_brief=1; }

# memcheck on the examples, racecheck on one captured call: they slow kernels down tenfold and a thousandfold.
sanitize() {
  local name tool options filter
  name=$(basename "$1")
  "$1" --gtest_list_tests '--gtest_filter=*Captured*' | grep -q '^ ' || return 0
  for tool in memcheck racecheck; do
    # Asking for the current context where there is none is no error.
    options=() filter='*Captured*'
    if [[ $tool == memcheck ]]; then options=(--report-api-errors no) filter='*Agree*:*Captured*'; fi
    part "$tool $name" env ATTUNE_RACECHECK=$([[ $tool == racecheck ]] && echo 1) ATTUNE_GPU_RANDOM=0 ATTUNE_GPU_SECONDS=60 compute-sanitizer --tool "$tool" "${options[@]}" --error-exitcode 9 \
      --print-limit 20 "$1" --gtest_brief=1 "--gtest_filter=$filter"
  done
}

for section in $sections; do
  case $section in
    tests)
      gpu_tests run_tests
      if [[ -x $BUILD/attune ]]; then part "attune run" env ATTUNE_BINARY="$BUILD/attune" "$PYTHON" tests/gpu/cli_gpu_test.py; else note "attune run" "skipped: no $BUILD/attune" 0; fi ;;
    sanitizer)
      if command -v compute-sanitizer >/dev/null; then gpu_tests sanitize; else note sanitizer "skipped: no compute-sanitizer" 0; fi ;;
    *) part "$section" "$PYTHON" bench/gpu_attention.py "$section" ${BENCH_ARGS:-} ;;
  esac
done

printf '\n==== summary\n'
printf '%s\n' "${summary[@]}"
exit $failed
