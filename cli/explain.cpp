// attune explain FILE: what the compiler makes of a program, stage by stage, and a picture of its mask.
#include "api/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/mask_picture.h"
#include "cli/output_files.h"
#include "cli/progress.h"
#include "cli/tensors.h"

namespace attune::cli {
namespace {

struct ExplainArguments {
  std::string file, stage, shape, dtype = "f32", arch = "sm_90a", accuracy = "fast", picture;
  std::vector<std::string> constants, params;
  bool backward = false, deterministic = false;
};

Stage parse_stage(const std::string& text) {
  constexpr std::array<std::pair<const char*, Stage>, 8> kNames = {{{"ast", Stage::kAst},
                                                                    {"ir", Stage::kIr},
                                                                    {"grad", Stage::kGrad},
                                                                    {"rates", Stage::kRates},
                                                                    {"bounds", Stage::kBounds},
                                                                    {"llvm", Stage::kLlvm},
                                                                    {"cuda", Stage::kCuda},
                                                                    {"ptx", Stage::kPtx}}};
  for (const auto& [name, stage] : kNames) {
    if (text == name) return stage;
  }
  throw UsageError(fmt::format("--emit: expected ast, ir, grad, rates, bounds, llvm, cuda, ptx or resources, found '{}'", text));
}

void draw(const ExplainArguments& arguments, const ExplainOptions& options, const Variant& variant) {
  OutputFiles outputs;
  outputs.add_input("FILE", arguments.file);
  outputs.add("--picture", arguments.picture);
  Bindings bindings = bind_params(variant, arguments.params);
  PlanOptions plan_options;
  plan_options.dtype = options.dtype;
  bindings.apply(plan_options);
  MaskTiles tiles = mask_tiles(variant, options.shape, plan_options);
  outputs.write_text("--picture", mask_picture(variant.name(), options.shape, tiles));
  outputs.commit();
  fmt::print(stderr, "{}: {}\n", arguments.picture, mask_summary(tiles));
}

std::string resources_json(const GpuResourceReport& report) {
  nlohmann::ordered_json json;
  json["config"] = report.config;
  json["compile_seconds"] = report.compile_seconds;
  json["kernels"] = nlohmann::ordered_json::array();
  for (const KernelResources& kernel : report.kernels) {
    json["kernels"].push_back({{"kernel", kernel.kernel},
                               {"threads", kernel.threads},
                               {"registers", kernel.registers},
                               {"stack_bytes", kernel.stack_bytes},
                               {"spill_store_bytes", kernel.spill_store_bytes},
                               {"spill_load_bytes", kernel.spill_load_bytes},
                               {"shared_bytes", kernel.shared_bytes}});
  }
  json["warnings"] = report.warnings;
  return json.dump(2) + "\n";
}

std::string resources_text(const GpuResourceReport& report) {
  size_t width = std::string_view("kernel").size();
  for (const KernelResources& kernel : report.kernels) width = std::max(width, kernel.kernel.size());
  std::string text = fmt::format("{}\ncompiled in {:.2f} s\n", report.config, report.compile_seconds);
  text += fmt::format("{:<{}}{:>9}{:>11}{:>8}{:>10}{:>10}{:>9}\n", "kernel", width, "threads", "registers", "stack", "spill st", "spill ld",
                      "shared");
  for (const KernelResources& kernel : report.kernels) {
    text += fmt::format("{:<{}}{:>9}{:>11}{:>8}{:>10}{:>10}{:>9}\n", kernel.kernel, width, kernel.threads, kernel.registers,
                        kernel.stack_bytes, kernel.spill_store_bytes, kernel.spill_load_bytes, kernel.shared_bytes);
  }
  for (const std::string& warning : report.warnings) text += "ptxas: " + warning + "\n";
  return text;
}

std::string stage_text(const std::string& stage, const std::string& program, const ExplainOptions& options, bool json) {
  const Progress progress("attune: compiling");
  if (stage != "resources") return explain(program, parse_stage(stage), options);
  const GpuResourceReport report = gpu_resources(program, options);
  return json ? resources_json(report) : resources_text(report);
}

void explain_program(const ExplainArguments& arguments, bool json) {
  ExplainOptions options;
  options.compile.file_name = arguments.file;
  options.compile.constants = parse_constants(arguments.constants);
  options.dtype = parse_dtype(arguments.dtype);
  options.arch = arguments.arch;
  options.accuracy = parse_accuracy(arguments.accuracy);
  options.backward = arguments.backward;
  options.deterministic = arguments.deterministic;
  if (!arguments.shape.empty()) options.shape = parse_shape(arguments.shape);
  if (!arguments.params.empty() && arguments.picture.empty()) throw UsageError("--param: only --picture takes parameters");
  // A picture alone prints no stage.
  bool prints = !arguments.stage.empty() || arguments.picture.empty();
  const std::string stage = arguments.stage.empty() ? "ir" : arguments.stage;
  if (stage != "resources") parse_stage(stage);
  const bool is_of_gpu = stage == "cuda" || stage == "ptx" || stage == "resources";
  if (arguments.backward && !is_of_gpu)
    throw UsageError(fmt::format("--backward: only --emit cuda, ptx and resources have it, found '{}'", stage));
  if (arguments.deterministic && !arguments.backward) throw UsageError("--deterministic: only --backward has it");
  if (json && stage != "resources") throw UsageError(fmt::format("--json: only --emit resources has it, found '{}'", stage));

  std::string text = read_program(arguments.file);
  Variant variant = compile_program(text, options.compile);
  if (!arguments.picture.empty()) draw(arguments, options, variant);
  if (!prints) return;
  std::string result = stage_text(stage, text, options, json);
  if (!result.ends_with('\n')) result += '\n';
  print(result);
}

}  // namespace

Command explain_command(Outcome& outcome) {
  auto arguments = std::make_shared<ExplainArguments>();
  return {"explain",
          "Show what the compiler makes of a program",
          {{"file", &arguments->file, "Program", kProgramFile, true},
           {"--emit", &arguments->stage, "Stage to print (default: ir)", kStages},
           {"--shape", &arguments->shape, "Sizes batch,q_len,k_len,heads,kv_heads,head_dim,v_dim (default: 1,4096,4096,16,16,64,64)",
            "B,Q,K,H,HK,D,DV"},
           {"--dtype", &arguments->dtype, "Type of q, k, v and out (default: f32)", kDTypes},
           {"--arch", &arguments->arch, "GPU architecture, for --emit cuda, ptx and resources (default: sm_90a)", "sm_NN"},
           {"--accuracy", &arguments->accuracy, "Of a GPU's kernel (default: fast)", kAccuracies},
           {"--backward", &arguments->backward, "Of a GPU: the kernels of the backward pass"},
           {"--deterministic", &arguments->deterministic, "With --backward: the same bits from call to call"},
           {"--const", &arguments->constants, "Value of a `const` parameter; repeatable", kAssignment},
           {"--picture", &arguments->picture, "Draw the mask of batch 0, head 0 into this file", "FILE.svg"},
           {"--param", &arguments->params, "Value of a parameter, for --picture; repeatable", kParamAssignment},
           {"--json", &outcome.json, "Print resources (or a wrong program's diagnostics) as JSON"}},
          "Examples:\n  attune explain flash.attn --emit grad\n  attune explain sliding.attn --emit bounds --const window=1024\n"
          "  attune explain flash.attn --emit resources --dtype bf16 --shape 1,4096,4096,16,16,128,128\n"
          "  attune explain sliding.attn --shape 1,4096,4096,8,8,64,64 --picture mask.svg\n",
          [arguments, &outcome] { explain_program(*arguments, outcome.json); }};
}

}  // namespace attune::cli
