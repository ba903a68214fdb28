# What comes from Debian; docs/dependencies.md says why each.
find_package(LLVM 19.1 CONFIG REQUIRED)
find_package(fmt 9.1 CONFIG REQUIRED)
find_package(nlohmann_json 3.11 CONFIG REQUIRED)
find_package(CLI11 2.1 CONFIG REQUIRED)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
if(ATTUNE_TESTS)
  find_package(GTest 1.12 REQUIRED)
endif()

# attune_llvm: LLVM's headers and libraries, as system headers (their warnings are not ours).
add_library(attune_llvm INTERFACE)
target_include_directories(attune_llvm SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS})
separate_arguments(attune_llvm_definitions UNIX_COMMAND "${LLVM_DEFINITIONS}")
target_compile_definitions(attune_llvm INTERFACE ${attune_llvm_definitions})
if(ATTUNE_STATIC_LLVM)
  # Debian's LLVM names shared libraries for what it needs itself; z3 belongs to a solver that nothing here calls.
  foreach(library z zstd xxhash)
    find_library(attune_static_${library} lib${library}.a REQUIRED)
  endforeach()
  set_target_properties(LLVMSupport PROPERTIES
    INTERFACE_LINK_LIBRARIES "rt;dl;m;${attune_static_z};${attune_static_zstd};LLVMDemangle")
  set_target_properties(PkgConfig::xxhash PROPERTIES INTERFACE_LINK_LIBRARIES ${attune_static_xxhash})
  # Debian has no libfmt.a.
  target_compile_definitions(attune_options INTERFACE FMT_HEADER_ONLY=1)
  llvm_map_components_to_libnames(attune_llvm_libraries core orcjit passes native)
  target_link_libraries(attune_llvm INTERFACE ${attune_llvm_libraries})
else()
  target_link_libraries(attune_llvm INTERFACE LLVM)
endif()
