#include "codegen/llvm_emitter.h"

#include <fmt/format.h>
#include <llvm/Config/llvm-config.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/MCSubtargetInfo.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Support/SmallVectorMemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Target/TargetMachine.h>

#include <memory>
#include <mutex>
#include <stdexcept>

#include "codegen/llvm_emitter_kernel.h"
#include "runtime/error.h"

namespace attune::codegen {
namespace {

constexpr const char* kTriple = "x86_64-unknown-linux-gnu";

std::unique_ptr<llvm::TargetMachine> make_target_machine(const CpuTarget& target) {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
  });
  std::string problem;
  const llvm::Target* found = llvm::TargetRegistry::lookupTarget(kTriple, problem);
  if (!found) throw EnvironmentError(fmt::format("LLVM {} has no target {}: {}", LLVM_VERSION_STRING, kTriple, problem));
  std::unique_ptr<llvm::TargetMachine> machine(found->createTargetMachine(kTriple, target.cpu, target.features, llvm::TargetOptions(),
                                                                          llvm::Reloc::PIC_, llvm::CodeModel::Small,
                                                                          llvm::CodeGenOptLevel::Default));
  if (!machine || !machine->getMCSubtargetInfo()->isCPUStringValid(target.cpu)) {
    throw EnvironmentError(fmt::format("LLVM {} does not know the CPU '{}'", LLVM_VERSION_STRING, target.cpu));
  }
  return machine;
}

// Register tiles: two vectors of queries a row. 16 registers hold 6 x 2 sums, two vectors and a broadcast; 32 hold 12 x 2.
CpuMachine describe(const llvm::TargetMachine& target) {
  const auto has = [&](const char* feature) { return target.getMCSubtargetInfo()->checkFeatures(feature); };
  CpuMachine machine;
  machine.has_fma = has("+fma");
  machine.has_f16c = has("+f16c");
  machine.has_round = has("+sse4.1");
  if (has("+avx512f") && has("+avx512vl") && has("+avx512bw") && has("+avx512dq") && !has("+prefer-256-bit")) {
    machine.lanes = 32;
    machine.rows = 12;
  } else if (has("+avx2")) {
    machine.lanes = 16;
    machine.rows = 6;
  } else {
    machine.lanes = 8;
    machine.rows = 4;
  }
  return machine;
}

// The IR is built in SSA form, in loops and with explicit vectors: only clean-up, hoisting and common subexpressions are left to do.
void optimize(llvm::Module& module, llvm::TargetMachine& machine) {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder passes(&machine);
  passes.registerModuleAnalyses(modules);
  passes.registerCGSCCAnalyses(components);
  passes.registerFunctionAnalyses(functions);
  passes.registerLoopAnalyses(loops);
  passes.crossRegisterProxies(loops, functions, components, modules);
  llvm::ModulePassManager pipeline;
  const char* text =
      "function(early-cse,instcombine<no-verify-fixpoint>,simplifycfg,loop-mssa(licm),early-cse<memssa>,instcombine<no-verify-fixpoint>,"
      "simplifycfg)";
  if (llvm::Error error = passes.parsePassPipeline(pipeline, text)) throw std::logic_error(llvm::toString(std::move(error)));
  pipeline.run(module, modules);
}

struct Emitted {
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
  std::unique_ptr<llvm::TargetMachine> machine;
  runtime::CpuKernel kernel;
};

llvm::Function* declare(llvm::Module& module, const CpuTarget& target, const std::string& symbol, bool is_backward) {
  llvm::LLVMContext& context = module.getContext();
  llvm::Type* pointer = llvm::PointerType::getUnqual(context);
  llvm::Type* number = llvm::Type::getInt32Ty(context);
  std::vector<llvm::Type*> types = {pointer, number, number, number, number};
  if (is_backward) types.insert(types.end(), {pointer, pointer});
  types.push_back(pointer);
  auto* type = llvm::FunctionType::get(llvm::Type::getVoidTy(context), types, false);
  auto* function = llvm::Function::Create(type, llvm::Function::ExternalLinkage, symbol, module);
  function->addFnAttr("target-cpu", target.cpu);
  if (!target.features.empty()) function->addFnAttr("target-features", target.features);
  function->addFnAttr(llvm::Attribute::NoUnwind);
  function->addFnAttr("prefer-vector-width", "512");
  function->addFnAttr("no-builtins");
  function->addParamAttr(0, llvm::Attribute::ReadOnly);
  function->addParamAttr(0, llvm::Attribute::NoAlias);
  for (unsigned i = 5; i < types.size(); ++i) {
    function->addParamAttr(i, llvm::Attribute::NoAlias);
    function->addParamAttr(i, llvm::Attribute::getWithAlignment(context, llvm::Align(runtime::kScratchAlignment)));
  }
  return function;
}

std::unique_ptr<Emitted> emit(const Lowered& lowered, const CpuKernelOptions& options, const CpuTarget& target) {
  auto emitted = std::make_unique<Emitted>();
  const bool is_backward = options.pass == runtime::CpuPass::kBackward;
  emitted->machine = make_target_machine(target);
  emitted->module = std::make_unique<llvm::Module>(lowered.ir.name, emitted->context);
  emitted->module->setTargetTriple(kTriple);
  emitted->module->setDataLayout(emitted->machine->createDataLayout());
  emitted->kernel.symbol = is_backward ? "attune_backward" : "attune_forward";
  llvm::Function* function = declare(*emitted->module, target, emitted->kernel.symbol, is_backward);
  const CpuMachine machine = describe(*emitted->machine);
  (is_backward ? emit_backward : emit_forward)(*function, machine, lowered, options, emitted->kernel);
  std::string problem;
  llvm::raw_string_ostream stream(problem);
  if (llvm::verifyModule(*emitted->module, &stream)) throw std::logic_error(fmt::format("{}: wrong LLVM IR: {}", lowered.ir.name, problem));
  optimize(*emitted->module, *emitted->machine);
  return emitted;
}

}  // namespace

std::string llvm_version() {
  return LLVM_VERSION_STRING;
}

runtime::CpuKernel emit_cpu_kernel(const Lowered& lowered, const CpuKernelOptions& options, const CpuTarget& target) {
  const std::unique_ptr<Emitted> emitted = emit(lowered, options, target);
  llvm::SmallVector<char, 0> object;
  llvm::raw_svector_ostream stream(object);
  llvm::legacy::PassManager passes;
  if (emitted->machine->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::ObjectFile)) {
    throw EnvironmentError(fmt::format("LLVM {} cannot write objects for {}", LLVM_VERSION_STRING, kTriple));
  }
  passes.run(*emitted->module);
  emitted->kernel.object.assign(object.begin(), object.end());
  return emitted->kernel;
}

std::string print_cpu_kernel(const Lowered& lowered, const CpuKernelOptions& options, const CpuTarget& target) {
  const std::unique_ptr<Emitted> emitted = emit(lowered, options, target);
  std::string text;
  llvm::raw_string_ostream stream(text);
  emitted->module->print(stream, nullptr);
  return text;
}

}  // namespace attune::codegen
