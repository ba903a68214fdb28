# Writes OUTPUT, a header with one hash of all files that LIST names, one a line.
file(STRINGS ${LIST} files)
set(hashes)
foreach(file ${files})
  file(SHA256 ${file} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 hash "${hashes}")
file(WRITE ${OUTPUT} "#pragma once\n\ninline constexpr char kAttuneCodeHash[] = \"${hash}\";\n")
