#include "runtime/cpu_executor.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <new>

#include "runtime/gradient_sums.h"

namespace attune::runtime {
namespace {

// Forward: enough tasks for a machine of many cores; smaller blocks copy keys and values more often.
constexpr int64_t kWantedForwardTasks = 64;
constexpr int kMinBlock = 128;
// Backward: enough tasks for a machine of some cores, but chunks of a sequence cost a copy of dk and dv each.
constexpr int64_t kWantedTasks = 16;
constexpr int64_t kMaxChunks = 8;
constexpr int64_t kMinChunkQueries = 128;
constexpr int64_t kMaxChunkBytes = int64_t{256} << 20;  // of all those copies
constexpr int32_t kReducedRows = 64;                    // keys of one task of the reduction

class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { release(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `bytes`, the same memory in later calls of no more.
  void* get(size_t bytes) {
    if (bytes <= bytes_) return memory_;
    release();
    memory_ = ::operator new(bytes, std::align_val_t{kScratchAlignment});
    bytes_ = bytes;
    return memory_;
  }

  float* zeroed(size_t floats) {
    void* memory = get(std::max<size_t>(1, floats) * sizeof(float));
    std::memset(memory, 0, floats * sizeof(float));
    return static_cast<float*>(memory);
  }
  float* floats() const { return static_cast<float*>(memory_); }

 private:
  void release() {
    if (memory_) ::operator delete(memory_, std::align_val_t{kScratchAlignment});
    memory_ = nullptr;
    bytes_ = 0;
  }

  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

int64_t block_count(const CpuArgs& args, int block_q) {
  return (static_cast<int64_t>(args.q_len) + block_q - 1) / block_q;
}

// Sequences with the most pairs first: what starts last should be short.
std::vector<size_t> heaviest_first(std::span<const CpuSequence> sequences) {
  std::vector<size_t> order(sequences.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto pairs = [&](size_t i) { return static_cast<int64_t>(sequences[i].args.q_len) * sequences[i].args.k_len; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return pairs(a) > pairs(b); });
  return order;
}

// Part of the queries of one (b, kv_h), for all heads that share it.
struct BackwardTask {
  size_t sequence = 0;
  int32_t b = 0, kv_h = 0;
  int32_t chunk = 0, chunks = 1;
  int64_t first_block = 0, end_block = 0;
  Scratch* sums = nullptr;  // chunks > 1: dk and dv of this chunk
};

class Backward {
 public:
  Backward(ThreadPool& pool, const CpuFunction<CpuBackward>& kernel, std::span<const CpuSequence> sequences,
           std::span<const CpuParamGradient> param_grads, int param_count)
      : pool_(pool), kernel_(kernel), sequences_(sequences), sums_(param_grads, param_count), workers_(static_cast<size_t>(pool.size())) {
    make_tasks();
    make_chunk_sums();
    make_chains();
  }

  void run() {
    pool_.parallel_for(static_cast<int64_t>(chains_.size()),
                       [this](int64_t chain, int worker) { run_chain(chain, workers_[static_cast<size_t>(worker)]); });
    sums_.write();
    reduce_chunks();
  }

 private:
  struct Worker {
    Scratch scratch, sums;
  };

  void make_tasks() {
    int64_t pairs = 0;
    for (const CpuSequence& s : sequences_) pairs += static_cast<int64_t>(s.end_b - s.first_b) * s.args.kv_heads;
    const int64_t wanted = pairs == 0 ? 1 : (kWantedTasks + pairs - 1) / pairs;
    for (size_t sequence : heaviest_first(sequences_)) {
      const CpuSequence& s = sequences_[sequence];
      const int64_t blocks = block_count(s.args, kernel_.block_q);
      const int64_t copies = kMaxChunkBytes / std::max<int64_t>(1, pairs * sums_size(s.args) * static_cast<int64_t>(sizeof(float)));
      const int64_t parts = std::min<int64_t>(blocks, s.args.q_len / kMinChunkQueries);
      const int64_t chunks = std::max<int64_t>(1, std::min({wanted, kMaxChunks, parts, copies}));
      for (int32_t b = s.first_b; b < s.end_b; ++b) {
        for (int32_t kv_h = 0; kv_h < s.args.kv_heads; ++kv_h) {
          // The last queries first: under a causal mask they see the most keys.
          for (int64_t chunk = chunks; chunk-- > 0;) {
            tasks_.push_back({sequence, b, kv_h, static_cast<int32_t>(chunk), static_cast<int32_t>(chunks), blocks * chunk / chunks,
                              blocks * (chunk + 1) / chunks, nullptr});
          }
        }
      }
    }
  }

  // The sums of one (b, kv_h) are dk's rows and behind them dv's, from an aligned place on; both have the rows of padding that kernels
  // want.
  int64_t dv_offset(const CpuArgs& args) const {
    constexpr int64_t kStep = kScratchAlignment / sizeof(float);
    return ((static_cast<int64_t>(args.k_len) + kCpuPadRows) * kernel_.dk_row + kStep - 1) / kStep * kStep;
  }
  int64_t sums_size(const CpuArgs& args) const {
    return dv_offset(args) + (static_cast<int64_t>(args.k_len) + kCpuPadRows) * kernel_.dv_row;
  }

  void make_chunk_sums() {
    for (BackwardTask& task : tasks_) {
      if (task.chunks > 1) task.sums = &chunk_sums_.emplace_back();
    }
  }

  void make_chains() {
    if (sums_.by_b() && sums_.by_h() && sums_.by_q()) {
      for (size_t task = 0; task < tasks_.size(); ++task) chains_.push_back({task});
      return;
    }
    std::map<std::array<int32_t, 3>, size_t> chain_of;
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const BackwardTask& task = tasks_[i];
      const auto [place, is_new] =
          chain_of.try_emplace({sums_.by_b() ? task.b : -1, sums_.by_h() ? task.kv_h : -1, sums_.by_q() ? task.chunk : -1}, chains_.size());
      if (is_new) chains_.emplace_back();
      chains_[place->second].push_back(i);
    }
  }

  void run_chain(int64_t number, Worker& worker) {
    GradientSums::Chain gradients = sums_.start();
    for (size_t task : chains_[static_cast<size_t>(number)]) run_task(tasks_[task], gradients, worker);
    sums_.finish(number, std::move(gradients));
  }

  void run_task(const BackwardTask& task, const GradientSums::Chain& gradients, Worker& worker) {
    const CpuSequence& s = sequences_[task.sequence];
    CpuArgs args = s.args;
    args.param_grads = gradients.params.data();
    float* dk = (task.sums ? *task.sums : worker.sums).zeroed(static_cast<size_t>(sums_size(args)));
    float* dv = dk + dv_offset(args);
    void* scratch = worker.scratch.get(kernel_.scratch_bytes);
    const int32_t group = args.heads / args.kv_heads;
    for (int32_t h = task.kv_h * group; h < (task.kv_h + 1) * group; ++h) {
      for (int64_t block = task.first_block; block < task.end_block; ++block) {
        const auto first_q = static_cast<int32_t>(block * kernel_.block_q);
        const auto end_q = static_cast<int32_t>(std::min<int64_t>(args.q_len, int64_t{first_q} + kernel_.block_q));
        kernel_.function(&args, task.b, h, first_q, end_q, dk, dv, scratch);
      }
    }
    if (!task.sums) write_rows(s, task, 0, args.k_len, dk, dv);
  }

  // Rows [first, end) of the sums, which are those of the whole sequence, into the outputs.
  void write_rows(const CpuSequence& s, const BackwardTask& task, int32_t first, int32_t end, const float* dk, const float* dv) const {
    write_rows(s.dk, task, first, end, dk, kernel_.dk_row, s.args.head_dim);
    write_rows(s.dv, task, first, end, dv, kernel_.dv_row, s.args.v_dim);
  }

  static void write_rows(const CpuGradient& to, const BackwardTask& task, int32_t first, int32_t end, const float* from, int row, int dim) {
    if (!to.data) return;
    for (int32_t j = first; j < end; ++j) {
      const int64_t offset = task.b * to.strides[0] + j * to.strides[1] + task.kv_h * to.strides[2];
      const float* values = from + static_cast<int64_t>(j) * row;
      if (to.type == FloatType::kF32) {
        std::memcpy(static_cast<float*>(to.data) + offset, values, static_cast<size_t>(dim) * sizeof(float));
        continue;
      }
      for (int d = 0; d < dim; ++d) store_float(to.type, to.data, offset + d, values[d]);
    }
  }

  // Adds the chunks of each (b, kv_h) in their order, some rows a task, and writes them.
  void reduce_chunks() {
    struct Slice {
      size_t task;  // the last chunk, the first of its (b, kv_h)
      int32_t first, end;
    };
    std::vector<Slice> slices;
    for (size_t i = 0; i < tasks_.size(); i += static_cast<size_t>(tasks_[i].chunks)) {
      if (tasks_[i].chunks == 1) continue;
      const int32_t keys = sequences_[tasks_[i].sequence].args.k_len;
      for (int32_t first = 0; first < keys; first += kReducedRows) slices.push_back({i, first, std::min(keys, first + kReducedRows)});
    }
    pool_.parallel_for(static_cast<int64_t>(slices.size()), [&](int64_t i, int) {
      const Slice& slice = slices[static_cast<size_t>(i)];
      reduce_rows(slice.task, slice.first, slice.end);
    });
  }

  void reduce_rows(size_t first_task, int32_t first, int32_t end) {
    const BackwardTask& task = tasks_[first_task];
    const CpuSequence& s = sequences_[task.sequence];
    float* dk = task.sums->floats();
    float* dv = dk + dv_offset(s.args);
    for (int32_t chunk = 1; chunk < task.chunks; ++chunk) {
      const float* other = tasks_[first_task + static_cast<size_t>(chunk)].sums->floats();
      add(dk, other, static_cast<int64_t>(first) * kernel_.dk_row, static_cast<int64_t>(end) * kernel_.dk_row);
      add(dv, other + dv_offset(s.args), static_cast<int64_t>(first) * kernel_.dv_row, static_cast<int64_t>(end) * kernel_.dv_row);
    }
    write_rows(s, task, first, end, dk, dv);
  }

  static void add(float* to, const float* from, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) to[i] += from[i];
  }

  ThreadPool& pool_;
  const CpuFunction<CpuBackward>& kernel_;
  std::span<const CpuSequence> sequences_;
  GradientSums sums_;
  std::vector<Worker> workers_;
  std::vector<BackwardTask> tasks_;
  std::deque<Scratch> chunk_sums_;
  std::vector<std::vector<size_t>> chains_;  // tasks, to be run in this order
};

int64_t forward_tasks(const CpuSequence& s, int block_q) {
  return (s.end_b - s.first_b) * static_cast<int64_t>(s.args.heads) * block_count(s.args, block_q);
}

// The kernel's block, or less of it where that would leave few tasks. Follows from shapes alone, as results depend on it.
int forward_block(std::span<const CpuSequence> sequences, int largest) {
  for (int block_q = largest; block_q > kMinBlock; block_q /= 2) {
    int64_t tasks = 0;
    for (const CpuSequence& s : sequences) tasks += forward_tasks(s, block_q);
    if (tasks >= kWantedForwardTasks) return block_q;
  }
  return std::min(largest, kMinBlock);
}

}  // namespace

void run_forward(ThreadPool& pool, const CpuFunction<CpuForward>& kernel, std::span<const CpuSequence> sequences) {
  const int block_q = forward_block(sequences, kernel.block_q);
  // Tasks of a sequence are numbered b, h, then query blocks from the last one on: under a causal mask the last queries see the most keys,
  // and the heads of one kv_h follow each other, so that their keys stay in the caches.
  const std::vector<size_t> order = heaviest_first(sequences);
  std::vector<int64_t> ends;  // of each sequence's numbers
  int64_t count = 0;
  for (size_t sequence : order) {
    count += forward_tasks(sequences[sequence], block_q);
    ends.push_back(count);
  }
  std::vector<Scratch> scratch(static_cast<size_t>(pool.size()));
  pool.parallel_for(count, [&](int64_t task, int worker) {
    const auto place = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), task) - ends.begin());
    const CpuSequence& s = sequences[order[place]];
    const int64_t number = task - (place == 0 ? 0 : ends[place - 1]);
    const int64_t blocks = block_count(s.args, block_q);
    const int64_t block = blocks - 1 - number % blocks, head = number / blocks;
    const auto first_q = static_cast<int32_t>(block * block_q);
    const auto end_q = static_cast<int32_t>(std::min<int64_t>(s.args.q_len, int64_t{first_q} + block_q));
    kernel.function(&s.args, static_cast<int32_t>(s.first_b + head / s.args.heads), static_cast<int32_t>(head % s.args.heads), first_q,
                    end_q, scratch[static_cast<size_t>(worker)].get(kernel.scratch_bytes));
  });
}

void run_backward(ThreadPool& pool, const CpuFunction<CpuBackward>& kernel, std::span<const CpuSequence> sequences,
                  std::span<const CpuParamGradient> param_grads, int param_count) {
  Backward(pool, kernel, sequences, param_grads, param_count).run();
}

}  // namespace attune::runtime
