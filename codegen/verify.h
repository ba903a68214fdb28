// The postcondition of every pass.
#pragma once

#include <span>

#include "codegen/ir.h"

namespace attune::codegen {

// Throws std::logic_error naming the node unless, for every node that a root of `ir` or one of `more_roots` needs: operands come before
// their user; the type follows the op's type rule; payloads name existing symbols and parameters of that type, with as many indices as the
// tensor has dims; exponents are constants. Also checks the types of the roots, and that those which the weight kind asks for are there.
void verify(const Ir& ir, std::span<const ValueId> more_roots = {});

}  // namespace attune::codegen
