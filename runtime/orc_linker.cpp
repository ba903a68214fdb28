#include "runtime/orc_linker.h"

#include <fmt/format.h>
#include <llvm/ExecutionEngine/JITLink/JITLinkMemoryManager.h>
#include <llvm/ExecutionEngine/Orc/Core.h>
#include <llvm/ExecutionEngine/Orc/ExecutionUtils.h>
#include <llvm/ExecutionEngine/Orc/ExecutorProcessControl.h>
#include <llvm/ExecutionEngine/Orc/ObjectLinkingLayer.h>
#include <llvm/Support/MemoryBuffer.h>

#include "runtime/error.h"

namespace attune::runtime {
namespace {

using namespace llvm;
using namespace llvm::orc;

[[noreturn]] void fail(const std::string& symbol, Error error) {
  throw EnvironmentError(fmt::format("cannot link '{}': {}", symbol, toString(std::move(error))));
}

template <typename T>
T check(const std::string& symbol, Expected<T> value) {
  if (!value) fail(symbol, value.takeError());
  return std::move(*value);
}

}  // namespace

struct LinkedObject::Session {
  explicit Session(std::unique_ptr<ExecutorProcessControl> control) : execution(std::move(control)), layer(execution) {
    execution.setErrorReporter([this](Error error) { report += toString(std::move(error)) + "; "; });
  }
  ~Session() { consumeError(execution.endSession()); }

  std::string report;  // what the linker said beside its result
  ExecutionSession execution;
  ObjectLinkingLayer layer;
};

LinkedObject::LinkedObject(std::string_view object, const std::string& symbol) {
  // In place: linking stays on this thread.
  session_ =
      std::make_unique<Session>(check(symbol, SelfExecutorProcessControl::Create(nullptr, std::make_unique<InPlaceTaskDispatcher>())));
  ExecutionSession& execution = session_->execution;
  JITDylib& library = execution.createBareJITDylib(symbol);
  library.addGenerator(check(symbol, DynamicLibrarySearchGenerator::GetForCurrentProcess('\0')));
  auto buffer = MemoryBuffer::getMemBufferCopy(StringRef(object.data(), object.size()), symbol);
  if (Error error = session_->layer.add(library, std::move(buffer))) fail(symbol, std::move(error));
  Expected<ExecutorSymbolDef> found = execution.lookup({&library}, execution.intern(symbol));
  if (!found) {
    const std::string words = toString(found.takeError());
    throw EnvironmentError(fmt::format("cannot link '{}': {}{}", symbol, session_->report, words));
  }
  address_ = found->getAddress().toPtr<void*>();
}

LinkedObject::~LinkedObject() = default;
LinkedObject::LinkedObject(LinkedObject&&) noexcept = default;
LinkedObject& LinkedObject::operator=(LinkedObject&&) noexcept = default;

}  // namespace attune::runtime
