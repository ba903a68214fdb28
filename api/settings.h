// What the environment tells the library. Inner part of the library.
#pragma once

#include <string>
#include <string_view>

namespace attune {

bool always_compiles();  // $ATTUNE_ALWAYS_COMPILE: pass the disk by
bool disables_jit();     // $ATTUNE_DISABLE_JIT: compile nothing, whatever CompileOptions says
bool has_large_tiles();  // $ATTUNE_LARGE_TILES: on a GPU, small problems run as large ones do

// Whether $ATTUNE_DUMP names a folder for what is made of a program on its way to machine code.
bool has_dump_folder();
// Writes the file into it; trouble is logged.
void dump(const std::string& file_name, std::string_view content);

}  // namespace attune
