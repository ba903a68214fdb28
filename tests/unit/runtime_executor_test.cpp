// cpu_executor.h, on kernels written in C++ in place of compiled ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "runtime/cpu_executor.h"
#include "runtime/gradient_sums.h"

namespace attune::runtime {
namespace {

constexpr int kBlockQ = 8;
constexpr int kDkRow = 6, kDvRow = 5;  // more than the dims
constexpr int kHeadDim = 4, kVDim = 3;
constexpr uint32_t kSeed = 20240601;

const float* row(const void* tensor, const int64_t (&stride)[3], int64_t b, int64_t i, int64_t h) {
  return static_cast<const float*>(tensor) + b * stride[0] + i * stride[1] + h * stride[2];
}
float* row(void* tensor, const int64_t (&stride)[3], int64_t b, int64_t i, int64_t h) {
  return static_cast<float*>(tensor) + b * stride[0] + i * stride[1] + h * stride[2];
}

float* at(const CpuTensor& tensor, std::initializer_list<int64_t> index) {
  int64_t offset = 0;
  size_t axis = 0;
  for (int64_t i : index) offset += i * tensor.strides[axis++];
  return static_cast<float*>(tensor.data) + offset;
}

void use_scratch(void* scratch) {
  EXPECT_EQ(reinterpret_cast<uintptr_t>(scratch) % kScratchAlignment, 0u);
  std::memset(scratch, 0x5a, 128);
}

float weight(const float* q, const float* k) {
  return q[0] * k[0] + q[1] * k[1];
}

// out = sum of weight * v over k_idx <= q_idx, lse counts the calls for the row.
void fake_forward(const CpuArgs* args, int32_t b, int32_t h, int32_t first_q, int32_t end_q, void* scratch) {
  use_scratch(scratch);
  EXPECT_EQ(first_q % kBlockQ, 0);
  EXPECT_LE(end_q - first_q, kBlockQ);
  EXPECT_LE(end_q, args->q_len);
  const int32_t kv_h = h / (args->heads / args->kv_heads);
  for (int32_t i = first_q; i < end_q; ++i) {
    float* out = row(args->out, args->out_stride, b, i, h);
    std::fill(out, out + kVDim, 0.0f);
    for (int32_t j = 0; j < std::min(args->k_len, i + 1); ++j) {
      const float w = weight(row(args->q, args->q_stride, b, i, h), row(args->k, args->k_stride, b, j, kv_h));
      for (int d = 0; d < kVDim; ++d) out[d] += w * row(args->v, args->v_stride, b, j, kv_h)[d];
    }
    args->lse[b * args->lse_stride[0] + h * args->lse_stride[1] + i * args->lse_stride[2]] += 1;
  }
}

// Parameters: 0 a scalar, 1 a bias [heads, q_len, k_len], 2 a bias of keys [batch, k_len], 3 has no gradient.
void fake_backward(const CpuArgs* args, int32_t b, int32_t h, int32_t first_q, int32_t end_q, float* dk, float* dv, void* scratch) {
  use_scratch(scratch);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(dk) % kScratchAlignment, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(dv) % kScratchAlignment, 0u);
  const int32_t kv_h = h / (args->heads / args->kv_heads);
  for (int32_t i = first_q; i < end_q; ++i) {
    const float* q = row(args->q, args->q_stride, b, i, h);
    const float* dout = row(args->dout, args->dout_stride, b, i, h);
    float dq = 0;
    for (int32_t j = 0; j < std::min(args->k_len, i + 1); ++j) {
      const float w = weight(q, row(args->k, args->k_stride, b, j, kv_h));
      for (int d = 0; d < kHeadDim; ++d) dk[j * kDkRow + d] += w * q[d];
      for (int d = 0; d < kVDim; ++d) dv[j * kDvRow + d] += w * dout[d];
      dq += w;
      if (args->param_grads[1].data) *at(args->param_grads[1], {h, i, j}) += w * w;
      if (args->param_grads[2].data) *at(args->param_grads[2], {b, j}) += w * 0.5f;
      EXPECT_EQ(args->param_grads[3].data, nullptr);
    }
    if (args->dq) row(args->dq, args->dq_stride, b, i, h)[0] = dq;
    if (args->param_grads[0].data) *at(args->param_grads[0], {}) += dq;
  }
  for (int32_t j = args->k_len; j < args->k_len + kCpuPadRows; ++j) {
    for (int d = 0; d < kDkRow; ++d) dk[j * kDkRow + d] += 0;
    for (int d = 0; d < kDvRow; ++d) dv[j * kDvRow + d] += 0;
  }
}

CpuKernel kernel_info() {
  CpuKernel kernel;
  kernel.block_q = kBlockQ;
  kernel.scratch_bytes = 128;
  kernel.dk_row = kDkRow;
  kernel.dv_row = kDvRow;
  return kernel;
}

void set_strides(int64_t (&stride)[3], int64_t length, int64_t heads, int64_t dim) {
  stride[0] = length * heads * dim;
  stride[1] = heads * dim;
  stride[2] = dim;
}

// Tensors [batch, length, heads, dim], and what a run writes.
struct Case {
  int batch, heads, kv_heads, q_len, k_len;
  std::vector<float> q, k, v, out, lse, dout, dq, dk, dv;
  CpuArgs args = {};

  Case(int batch_, int heads_, int kv_heads_, int q_len_, int k_len_)
      : batch(batch_), heads(heads_), kv_heads(kv_heads_), q_len(q_len_), k_len(k_len_) {
    std::mt19937 random(kSeed);
    const auto fill = [&](std::vector<float>& x, int length, int count, int dim) {
      x.resize(static_cast<size_t>(batch) * length * count * dim);
      for (float& value : x) value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 700.0f;
    };
    fill(q, q_len, heads, kHeadDim);
    fill(k, k_len, kv_heads, kHeadDim);
    fill(v, k_len, kv_heads, kVDim);
    fill(dout, q_len, heads, kVDim);
    clear();
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.out = out.data();
    args.lse = lse.data();
    args.dout = dout.data();
    args.dq = dq.data();
    set_strides(args.q_stride, q_len, heads, kHeadDim);
    set_strides(args.k_stride, k_len, kv_heads, kHeadDim);
    set_strides(args.v_stride, k_len, kv_heads, kVDim);
    set_strides(args.out_stride, q_len, heads, kVDim);
    set_strides(args.dout_stride, q_len, heads, kVDim);
    set_strides(args.dq_stride, q_len, heads, kHeadDim);
    args.lse_stride[0] = static_cast<int64_t>(heads) * q_len;
    args.lse_stride[1] = q_len;
    args.lse_stride[2] = 1;
    args.batch = batch;
    args.heads = heads;
    args.kv_heads = kv_heads;
    args.q_len = q_len;
    args.k_len = k_len;
    args.head_dim = kHeadDim;
    args.v_dim = kVDim;
  }

  void clear() {
    out.assign(static_cast<size_t>(batch) * q_len * heads * kVDim, NAN);
    lse.assign(static_cast<size_t>(batch) * q_len * heads, 0.0f);
    dq.assign(q.size(), 0.0f);
    dk.assign(k.size(), NAN);
    dv.assign(v.size(), NAN);
  }

  CpuSequence sequence() {
    CpuSequence s;
    s.args = args;
    s.end_b = batch;
    s.dk.data = dk.data();
    s.dv.data = dv.data();
    std::copy(args.k_stride, args.k_stride + 3, s.dk.strides);
    std::copy(args.v_stride, args.v_stride + 3, s.dv.strides);
    return s;
  }
};

void forward(ThreadPool& pool, std::span<const CpuSequence> sequences) {
  run_forward(pool, {fake_forward, kernel_info()}, sequences);
}

struct Gradients {
  std::vector<float> scalar, bias, keys;
  std::vector<CpuParamGradient> wanted;

  Gradients(const Case& c, bool broadcast_heads) {
    const int64_t bias_heads = broadcast_heads ? 1 : c.heads;
    scalar.assign(1, NAN);
    bias.assign(static_cast<size_t>(bias_heads) * c.q_len * c.k_len, NAN);
    keys.assign(static_cast<size_t>(c.batch) * c.k_len, NAN);
    wanted.resize(3);
    wanted[0].param = 0;
    wanted[0].data = scalar.data();
    wanted[1].param = 1;
    wanted[1].data = bias.data();
    wanted[1].shape = {bias_heads, c.q_len, c.k_len};
    wanted[1].strides = {static_cast<int64_t>(c.q_len) * c.k_len, c.k_len, 1};
    wanted[1].by_h = !broadcast_heads;
    wanted[1].by_q = true;
    wanted[2].param = 2;
    wanted[2].data = keys.data();
    wanted[2].shape = {c.batch, c.k_len};
    wanted[2].strides = {c.k_len, 1};
    wanted[2].by_b = true;
  }
};

void backward(ThreadPool& pool, std::span<const CpuSequence> sequences, std::span<const CpuParamGradient> wanted) {
  run_backward(pool, {fake_backward, kernel_info()}, sequences, wanted, 4);
}

void expect_near(const std::vector<float>& got, const std::vector<double>& want, const char* name) {
  ASSERT_EQ(got.size(), want.size());
  double scale = 1;
  for (double value : want) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-6 * scale) << name << "[" << i << "], seed " << kSeed;
}

// The gradients by plain loops, in double.
struct Reference {
  std::vector<double> dk, dv, scalar{0.0}, bias, keys;

  Reference(const Case& c, bool broadcast_heads)
      : dk(c.k.size()),
        dv(c.v.size()),
        bias(static_cast<size_t>(broadcast_heads ? 1 : c.heads) * c.q_len * c.k_len),
        keys(static_cast<size_t>(c.batch) * c.k_len) {
    for (int b = 0; b < c.batch; ++b) {
      for (int h = 0; h < c.heads; ++h) {
        for (int i = 0; i < c.q_len; ++i) {
          for (int j = 0; j < std::min(c.k_len, i + 1); ++j) add(c, b, h, i, j, broadcast_heads ? 0 : h);
        }
      }
    }
  }

 private:
  void add(const Case& c, int b, int h, int i, int j, int bias_head) {
    const int kv_h = h / (c.heads / c.kv_heads);
    const float* q = row(c.args.q, c.args.q_stride, b, i, h);
    const double w = weight(q, row(c.args.k, c.args.k_stride, b, j, kv_h));
    const size_t key = (static_cast<size_t>(b) * c.k_len + j) * c.kv_heads + kv_h;
    for (int d = 0; d < kHeadDim; ++d) dk[key * kHeadDim + d] += w * q[d];
    for (int d = 0; d < kVDim; ++d) dv[key * kVDim + d] += w * row(c.args.dout, c.args.dout_stride, b, i, h)[d];
    scalar[0] += w;
    bias[(static_cast<size_t>(bias_head) * c.q_len + i) * c.k_len + j] += w * w;
    keys[static_cast<size_t>(b) * c.k_len + j] += w * 0.5;
  }
};

TEST(Executor, ForwardVisitsEveryRowOnce) {
  Case c(2, 4, 2, 29, 17);
  for (int workers = 1; workers <= 5; ++workers) {
    ThreadPool pool(workers);
    c.clear();
    const std::vector<CpuSequence> sequences = {c.sequence()};
    forward(pool, sequences);
    EXPECT_EQ(c.lse, std::vector<float>(c.lse.size(), 1.0f)) << workers << " workers";
    Case direct(2, 4, 2, 29, 17);
    alignas(kScratchAlignment) char scratch[128];
    for (int b = 0; b < 2; ++b) {
      for (int h = 0; h < 4; ++h) {
        for (int first = 0; first < 29; first += kBlockQ) fake_forward(&direct.args, b, h, first, std::min(29, first + kBlockQ), scratch);
      }
    }
    EXPECT_EQ(c.out, direct.out) << workers << " workers";
  }
}

TEST(Executor, ForwardOfPackedSequences) {
  // Three sequences in one tensor [total, heads, dim], one of them empty.
  const int lengths[] = {11, 0, 30};
  Case all(1, 2, 1, 41, 41);
  std::vector<CpuSequence> sequences;
  int begin = 0;
  for (int s = 0; s < 3; ++s) {
    CpuSequence sequence;
    sequence.args = all.args;
    CpuArgs& args = sequence.args;
    args.q = all.q.data() + begin * args.q_stride[1];
    args.k = all.k.data() + begin * args.k_stride[1];
    args.v = all.v.data() + begin * args.v_stride[1];
    args.out = all.out.data() + begin * args.out_stride[1];
    args.lse = all.lse.data() + begin;
    for (int64_t* stride : {args.q_stride, args.k_stride, args.v_stride, args.out_stride, args.lse_stride}) stride[0] = 0;
    args.batch = 3;
    args.q_len = args.k_len = lengths[s];
    sequence.first_b = s;
    sequence.end_b = s + 1;
    sequences.push_back(sequence);
    begin += lengths[s];
  }
  ThreadPool pool(3);
  forward(pool, sequences);
  EXPECT_EQ(all.lse, std::vector<float>(all.lse.size(), 1.0f));
  // The last row of the first sequence sees 11 keys, the first of the third only its own.
  for (int d = 0; d < kVDim; ++d) {
    const float w = weight(row(all.args.q, all.args.q_stride, 0, 11, 1), row(all.args.k, all.args.k_stride, 0, 11, 0));
    EXPECT_EQ(all.out[static_cast<size_t>((11 * 2 + 1) * kVDim + d)], 0.0f + w * all.v[static_cast<size_t>(11 * kVDim + d)]);
  }
}

TEST(Executor, NothingToDo) {
  ThreadPool pool(2);
  Case none(1, 1, 1, 0, 5);
  const std::vector<CpuSequence> sequences = {none.sequence()};
  forward(pool, sequences);
  Gradients gradients(none, false);
  backward(pool, sequences, gradients.wanted);
  EXPECT_EQ(none.dk, std::vector<float>(none.dk.size(), 0.0f));
  EXPECT_EQ(none.dv, std::vector<float>(none.dv.size(), 0.0f));
  EXPECT_EQ(gradients.scalar[0], 0.0f);
  EXPECT_EQ(gradients.keys, std::vector<float>(5, 0.0f));
  forward(pool, {});
  backward(pool, {}, gradients.wanted);
}

struct BackwardShape {
  int batch, heads, kv_heads, q_len, k_len;
  bool broadcast_heads;
};

class ExecutorBackward : public testing::TestWithParam<BackwardShape> {};

TEST_P(ExecutorBackward, MatchesPlainLoopsWithTheSameBitsForAnyThreads) {
  const BackwardShape s = GetParam();
  Case c(s.batch, s.heads, s.kv_heads, s.q_len, s.k_len);
  const Reference reference(c, s.broadcast_heads);
  std::vector<float> dk, dv, dq, scalar, bias, keys;
  for (int workers = 1; workers <= 5; ++workers) {
    ThreadPool pool(workers);
    c.clear();
    Gradients gradients(c, s.broadcast_heads);
    const std::vector<CpuSequence> sequences = {c.sequence()};
    backward(pool, sequences, gradients.wanted);
    if (workers == 1) {
      expect_near(c.dk, reference.dk, "dk");
      expect_near(c.dv, reference.dv, "dv");
      expect_near(gradients.scalar, reference.scalar, "scalar");
      expect_near(gradients.bias, reference.bias, "bias");
      expect_near(gradients.keys, reference.keys, "keys");
      dk = c.dk, dv = c.dv, dq = c.dq, scalar = gradients.scalar, bias = gradients.bias, keys = gradients.keys;
      continue;
    }
    EXPECT_EQ(c.dk, dk) << workers << " workers";
    EXPECT_EQ(c.dv, dv) << workers << " workers";
    EXPECT_EQ(c.dq, dq) << workers << " workers";
    EXPECT_EQ(gradients.scalar, scalar) << workers << " workers";
    EXPECT_EQ(gradients.bias, bias) << workers << " workers";
    EXPECT_EQ(gradients.keys, keys) << workers << " workers";
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ExecutorBackward,
                         testing::Values(BackwardShape{1, 1, 1, 700, 40, false},   // chunks of queries
                                         BackwardShape{3, 6, 2, 70, 33, false},    // groups of heads
                                         BackwardShape{4, 4, 4, 20, 20, true},     // one chunk each
                                         BackwardShape{1, 2, 2, 300, 290, false},  // a bias written directly, by heads and chunks
                                         BackwardShape{2, 2, 1, 300, 290, true},   // the same for all heads and batches: by chunks
                                         BackwardShape{1, 1, 1, 5, 64, false}));   // fewer queries than a block

TEST(Executor, OutputsAreRoundedToTheirType) {
  Case c(1, 2, 1, 60, 20);
  ThreadPool pool(2);
  const std::vector<CpuSequence> exact = {c.sequence()};
  backward(pool, exact, {});
  for (FloatType type : {FloatType::kF16, FloatType::kBF16}) {
    // A tensor with gaps: every second position along the keys.
    std::vector<uint16_t> narrow(2 * c.dk.size(), 0xabcd);
    std::vector<CpuSequence> sequences = exact;
    sequences[0].dk = {narrow.data(), type, {0, 2 * kHeadDim, kHeadDim}};
    sequences[0].dv.data = nullptr;
    backward(pool, sequences, {});
    for (size_t j = 0; j < 20; ++j) {
      for (size_t d = 0; d < kHeadDim; ++d) {
        const float value = c.dk[j * kHeadDim + d];
        EXPECT_EQ(narrow[2 * j * kHeadDim + d], type == FloatType::kF16 ? f16_of_f32(value) : bf16_of_f32(value)) << j << " " << d;
        EXPECT_EQ(narrow[(2 * j + 1) * kHeadDim + d], 0xabcd) << "written between the strides";
      }
    }
  }
}

TEST(Executor, BackwardOfPackedSequences) {
  const int lengths[] = {40, 7};
  Case all(1, 2, 2, 47, 47);
  std::vector<CpuSequence> sequences;
  int begin = 0;
  for (int s = 0; s < 2; ++s) {
    CpuSequence sequence = all.sequence();
    CpuArgs& args = sequence.args;
    args.q = all.q.data() + begin * args.q_stride[1];
    args.k = all.k.data() + begin * args.k_stride[1];
    args.v = all.v.data() + begin * args.v_stride[1];
    args.dout = all.dout.data() + begin * args.dout_stride[1];
    args.dq = all.dq.data() + begin * args.dq_stride[1];
    sequence.dk.data = all.dk.data() + begin * args.k_stride[1];
    sequence.dv.data = all.dv.data() + begin * args.v_stride[1];
    for (int64_t* stride : {args.q_stride, args.k_stride, args.v_stride, args.dout_stride, args.dq_stride}) stride[0] = 0;
    sequence.dk.strides[0] = sequence.dv.strides[0] = 0;
    args.batch = 2;
    args.q_len = args.k_len = lengths[s];
    sequence.first_b = s;
    sequence.end_b = s + 1;
    sequences.push_back(sequence);
    begin += lengths[s];
  }
  // The bias of keys is [batch, k_len] with the longest k_len.
  std::vector<float> keys(2 * 40, NAN);
  CpuParamGradient wanted;
  wanted.param = 2;
  wanted.data = keys.data();
  wanted.shape = {2, 40};
  wanted.strides = {40, 1};
  wanted.by_b = true;
  std::vector<float> first_keys;
  for (int workers = 1; workers <= 3; ++workers) {
    ThreadPool pool(workers);
    backward(pool, sequences, std::span(&wanted, 1));
    for (float value : all.dk) ASSERT_FALSE(std::isnan(value)) << "not all of dk is written";
    for (int j = 7; j < 40; ++j) EXPECT_EQ(keys[static_cast<size_t>(40 + j)], 0.0f);
    if (workers == 1) first_keys = keys;
    EXPECT_EQ(keys, first_keys);
  }
  double want = 0;  // of the second sequence's first key, over its 7 queries and 2 heads
  for (int i = 40; i < 47; ++i) {
    for (int h = 0; h < 2; ++h)
      want += 0.5 * weight(row(all.args.q, all.args.q_stride, 0, i, h), row(all.args.k, all.args.k_stride, 0, 40, h));
  }
  EXPECT_NEAR(keys[40], want, 1e-5);
}

}  // namespace
}  // namespace attune::runtime
