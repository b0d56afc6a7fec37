#!/bin/sh
# Used as RUSTC_WRAPPER: compiles quantkit and the fuzz targets with libFuzzer's coverage
# instrumentation and with checks of arithmetic, and everything else as it is.
compiler=$1
shift
case " $* " in
*" --crate-name quantkit "* | *" fuzz_targets/"*)
    exec "$compiler" "$@" -C debug-assertions -C overflow-checks -C codegen-units=1 \
        -C passes=sancov-module \
        -C llvm-args=-sanitizer-coverage-level=4 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
        -C llvm-args=-sanitizer-coverage-pc-table \
        -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$compiler" "$@" ;;
esac
