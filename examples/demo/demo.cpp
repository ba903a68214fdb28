// Attention variants on real activations, those of a small text encoder: softmax equals what the model itself computed; sigmoid runs
// forward and backward, agrees with plain loops in double and, at random places, with difference quotients of its own forward pass.
//
//   attune_demo EXAMPLES_FOLDER
//
// Exit code 1 if anything differs by more than its bar.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "api/attune.h"
#include "cli/npy.h"

namespace {

using attune::npy::Array;

constexpr int kLayers = 6;
constexpr double kForwardBar = 2e-6;  // relative error of an f32 result
constexpr double kBackwardBar = 1e-5;
constexpr double kQuotientBar = 1e-4;  // root mean square, relative to the largest gradient of the tensor: f32 outputs carry no more
constexpr float kStep = 1.0f / 64;

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(fmt::format("cannot open '{}'", path));
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

attune::Tensor tensor(Array& array) {
  return {array.data.data(), attune::DType::kF32, array.shape, {}};
}

Array like(const Array& array) {
  return attune::npy::zeros(array.shape, attune::npy::Type::kF32);
}

double milliseconds(const std::function<void()>& call) {
  call();
  double best = INFINITY;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call();
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// ||got - want|| / ||want||; NaN if anything is.
template <typename Got, typename Want>
double relative_error(const Got& got, const Want& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (double(got[i]) - double(want[i])) * (double(got[i]) - double(want[i]));
    norm += double(want[i]) * double(want[i]);
  }
  return std::sqrt(difference / norm);
}

struct Layer {
  Array q, k, v, out;
};

std::string data_path(const std::string& folder, const std::string& name) {
  return fmt::format("{}/data/minilm/{}.npy", folder, name);
}

Layer load(const std::string& folder, int number) {
  const auto part = [&](const char* name) { return attune::npy::read(data_path(folder, fmt::format("layer{}_{}", number, name))); };
  return {part("q"), part("k"), part("v"), part("out")};
}

attune::Shape shape_of(const Layer& layer) {
  const std::vector<int64_t>& q = layer.q.shape;
  return {.batch = q[0], .heads = q[2], .kv_heads = q[2], .q_len = q[1], .k_len = q[1], .head_dim = q[3], .v_dim = q[3]};
}

// Causal sigmoid attention and its gradients for loss = sum(out * dout), by loops in double: d weight = w (1 - w).
struct Reference {
  std::vector<double> out, dq, dk, dv;
};

Reference sigmoid_reference(const Layer& layer, const Array& dout, const attune::Shape& s) {
  const auto q = layer.q.values<float>(), k = layer.k.values<float>(), v = layer.v.values<float>(), g = dout.values<float>();
  Reference r;
  for (auto* part : {&r.out, &r.dq, &r.dk, &r.dv}) part->assign(q.size(), 0);
  const double scale = 1 / std::sqrt(double(s.head_dim)), bias = -std::log(double(s.k_len));
  const auto at = [&](int64_t b, int64_t i, int64_t h) { return static_cast<size_t>(((b * s.q_len + i) * s.heads + h) * s.head_dim); };
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t i = 0; i < s.q_len; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
          const size_t qi = at(b, i, h), kj = at(b, j, h);
          double qk = 0, dp = 0;
          for (int64_t d = 0; d < s.head_dim; ++d) {
            qk += double(q[qi + d]) * k[kj + d];
            dp += double(g[qi + d]) * v[kj + d];
          }
          const double w = 1 / (1 + std::exp(-(qk * scale + bias)));
          const double dqk = dp * w * (1 - w) * scale;
          for (int64_t d = 0; d < s.head_dim; ++d) {
            r.out[qi + d] += w * v[kj + d];
            r.dv[kj + d] += w * g[qi + d];
            r.dq[qi + d] += dqk * k[kj + d];
            r.dk[kj + d] += dqk * q[qi + d];
          }
        }
      }
    }
  }
  return r;
}

// One layer under one plan: what goes in, what comes out.
class Attention {
 public:
  Attention(const attune::Plan& plan, Layer& layer) : plan_(plan), layer_(layer), out_(like(layer.out)) {}

  void forward() { plan_.forward({tensor(layer_.q), tensor(layer_.k), tensor(layer_.v), tensor(out_), {}}); }
  std::span<const float> out() const { return out_.values<float>(); }

  // (L(x + step) - L(x - step)) / (2 step) for L = sum(out * dout) and one element x of q, k or v.
  double quotient(float& x, std::span<const float> dout) {
    const float middle = x;
    x = middle + kStep;
    forward();
    const std::vector<float> above(out().begin(), out().end());
    x = middle - kStep;
    forward();
    x = middle;
    double sum = 0;
    for (size_t i = 0; i < above.size(); ++i) sum += (double(above[i]) - double(out()[i])) * double(dout[i]);
    return sum / (2 * kStep);
  }

 private:
  const attune::Plan& plan_;
  Layer& layer_;
  Array out_;
};

class Demo {
 public:
  explicit Demo(std::string folder) : folder_(std::move(folder)), random_(seed_) {}

  bool run() {
    softmax();
    sigmoid();
    return ok_;
  }

 private:
  void check(double error, double bar) { ok_ = ok_ && error <= bar; }  // false for NaN

  attune::Variant compile(const std::string& name) const {
    return attune::compile(read_text(folder_ + "/" + name), {.file_name = name, .constants = {}});
  }

  void softmax() {
    const attune::Variant variant = compile("padding.attn");
    Array lengths = attune::npy::read(data_path(folder_, "lengths"));
    attune::PlanOptions options;
    options.tensors["lengths"] = {lengths.data.data(), attune::DType::kI32, lengths.shape, {}};
    fmt::print("padding.attn (softmax) on the activations of all-MiniLM-L6-v2, against the model's own attention output\n");
    fmt::print("  {:>5}  {:>24}  {:>10}  {}\n", "layer", "[batch, len, heads, dim]", "forward", "relative error");
    for (int number = 0; number < kLayers; ++number) {
      Layer layer = load(folder_, number);
      const attune::Plan plan = variant.plan(shape_of(layer), options);
      Attention attention(plan, layer);
      const double ms = milliseconds([&] { attention.forward(); });
      const double error = relative_error(attention.out(), layer.out.values<float>());
      fmt::print("  {:>5}  {:>24}  {:>7.3f} ms  {:.1e}\n", number, attune::npy::shape_text(layer.q.shape), ms, error);
      check(error, kForwardBar);
    }
  }

  void sigmoid() {
    const attune::Variant variant = compile("flash_sigmoid.attn");
    fmt::print(
        "\nflash_sigmoid.attn, forward and backward, against plain loops in double (random dout, seed {}); the last column against "
        "difference\n"
        "quotients of the forward pass at random places\n",
        seed_);
    fmt::print("  {:>5}  {:>10}  {:>11}  {:>8} {:>8} {:>8} {:>8}  {}\n", "layer", "forward", "backward", "out", "dq", "dk", "dv",
               "quotients");
    for (int number = 0; number < kLayers; ++number) sigmoid_layer(variant, number);
  }

  void sigmoid_layer(const attune::Variant& variant, int number) {
    Layer layer = load(folder_, number);
    const attune::Shape shape = shape_of(layer);
    const attune::Plan plan = variant.plan(shape);
    Attention attention(plan, layer);
    Array dout = like(layer.out), dq = like(layer.q), dk = like(layer.k), dv = like(layer.v);
    std::normal_distribution<float> normal;
    for (float& value : dout.values<float>()) value = normal(random_);

    const attune::BackwardTensors backward{tensor(layer.q), tensor(layer.k), tensor(layer.v), {},         {},
                                           tensor(dout),    tensor(dq),      tensor(dk),      tensor(dv), {}};
    const double forward_ms = milliseconds([&] { attention.forward(); });
    const double backward_ms = milliseconds([&] { plan.backward(backward); });
    const Reference want = sigmoid_reference(layer, dout, shape);
    const double errors[] = {relative_error(attention.out(), want.out), relative_error(dq.values<float>(), want.dq),
                             relative_error(dk.values<float>(), want.dk), relative_error(dv.values<float>(), want.dv)};
    double squares = 0;
    for (auto [input, gradient] : {std::pair(&layer.q, &dq), std::pair(&layer.k, &dk), std::pair(&layer.v, &dv)}) {
      squares += quotient_error(attention, input->values<float>(), gradient->values<float>(), dout.values<float>());
    }
    const double quotients = std::sqrt(squares / 3);
    fmt::print("  {:>5}  {:>7.3f} ms  {:>8.3f} ms  {:>8.1e} {:>8.1e} {:>8.1e} {:>8.1e}  {:.1e}\n", number, forward_ms, backward_ms,
               errors[0], errors[1], errors[2], errors[3], quotients);
    check(errors[0], kForwardBar);
    for (int i = 1; i < 4; ++i) check(errors[i], kBackwardBar);
    check(quotients, kQuotientBar);
  }

  // The mean square of the differences at eight random places, relative to the greatest gradient.
  double quotient_error(Attention& attention, std::span<float> input, std::span<const float> gradient, std::span<const float> dout) {
    constexpr int kPlaces = 8;
    std::uniform_int_distribution<size_t> place(0, input.size() - 1);
    double largest = 0, squares = 0;
    for (float value : gradient) largest = std::max(largest, std::abs(double(value)));
    for (int i = 0; i < kPlaces; ++i) {
      const size_t at = place(random_);
      const double difference = (attention.quotient(input[at], dout) - double(gradient[at])) / largest;
      squares += difference * difference;
    }
    return squares / kPlaces;
  }

  std::string folder_;
  unsigned seed_ = std::random_device()();
  std::mt19937 random_;
  bool ok_ = true;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: attune_demo EXAMPLES_FOLDER\n");
    return 2;
  }
  try {
    if (Demo(argv[1]).run()) {
      fmt::print("\nAll errors are within their bars: {:.0e} forward, {:.0e} backward, {:.0e} quotients.\n", kForwardBar, kBackwardBar,
                 kQuotientBar);
      return 0;
    }
    fmt::print("\nSomething is beyond its bar.\n");
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "attune_demo: {}\n", error.what());
    return 2;
  }
}
