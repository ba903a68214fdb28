// attune explain FILE: what the compiler makes of a program, stage by stage, and a picture of its mask.
#include "api/explain.h"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <memory>
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
  std::string file, stage, shape, dtype = "f32", arch = "sm_90a", picture;
  std::vector<std::string> constants, params;
};

Stage parse_stage(const std::string& text) {
  constexpr std::array<std::pair<const char*, Stage>, 7> kNames = {{{"ast", Stage::kAst},
                                                                    {"ir", Stage::kIr},
                                                                    {"grad", Stage::kGrad},
                                                                    {"rates", Stage::kRates},
                                                                    {"bounds", Stage::kBounds},
                                                                    {"llvm", Stage::kLlvm},
                                                                    {"cuda", Stage::kCuda}}};
  for (const auto& [name, stage] : kNames) {
    if (text == name) return stage;
  }
  throw UsageError(fmt::format("--emit: expected ast, ir, grad, rates, bounds, llvm or cuda, found '{}'", text));
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

void explain_program(const ExplainArguments& arguments) {
  ExplainOptions options;
  options.compile.file_name = arguments.file;
  options.compile.constants = parse_constants(arguments.constants);
  options.dtype = parse_dtype(arguments.dtype);
  options.arch = arguments.arch;
  if (!arguments.shape.empty()) options.shape = parse_shape(arguments.shape);
  if (!arguments.params.empty() && arguments.picture.empty()) throw UsageError("--param: only --picture takes parameters");
  // A picture alone prints no stage.
  bool prints = !arguments.stage.empty() || arguments.picture.empty();
  Stage stage = parse_stage(arguments.stage.empty() ? "ir" : arguments.stage);

  std::string text = read_program(arguments.file);
  Variant variant = compile_program(text, options.compile);
  if (!arguments.picture.empty()) draw(arguments, options, variant);
  if (!prints) return;
  std::string result;
  {
    Progress progress("attune: compiling");
    result = explain(text, stage, options);
  }
  if (!result.ends_with('\n')) result += '\n';
  print(result);
}

}  // namespace

Command explain_command() {
  auto arguments = std::make_shared<ExplainArguments>();
  return {"explain",
          "Show what the compiler makes of a program",
          {{"file", &arguments->file, "Program", kProgramFile, true},
           {"--emit", &arguments->stage, "Stage to print (default: ir)", kStages},
           {"--shape", &arguments->shape, "Sizes batch,q_len,k_len,heads,kv_heads,head_dim,v_dim (default: 1,512,512,8,8,64,64)",
            "B,Q,K,H,HK,D,DV"},
           {"--dtype", &arguments->dtype, "Type of q, k, v and out (default: f32)", kDTypes},
           {"--arch", &arguments->arch, "GPU architecture, for --emit cuda (default: sm_90a)", "sm_NN"},
           {"--const", &arguments->constants, "Value of a `const` parameter; repeatable", kAssignment},
           {"--picture", &arguments->picture, "Draw the mask of batch 0, head 0 into this file", "FILE.svg"},
           {"--param", &arguments->params, "Value of a parameter, for --picture; repeatable", kParamAssignment}},
          "Examples:\n  attune explain flash.attn --emit grad\n  attune explain sliding.attn --emit bounds --const window=1024\n"
          "  attune explain sliding.attn --shape 1,4096,4096,8,8,64,64 --picture mask.svg\n",
          [arguments] { explain_program(*arguments); }};
}

}  // namespace attune::cli
