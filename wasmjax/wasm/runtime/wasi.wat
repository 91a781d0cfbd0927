;; WASI preview 1: arguments, environment, standard streams, exit.
;;
;; Input is the machine's input space: the arguments, the environment variables (each string ended
;; by a zero byte), then stdin. Descriptors 0, 1 and 2 are open and are not terminals, so a C
;; library buffers its output. Error numbers: 8 badf, 54 notdir, 70 spipe.
(module
  (import "wasmjax" "memory" (memory 0))
  (import "wasmjax" "out" (func $out (param i32)))
  (import "wasmjax" "err" (func $err (param i32)))
  (import "wasmjax" "input" (func $input (param i32) (result i32)))
  (import "wasmjax" "halt" (func $halt (param i32)))
  (import "wasmjax" "argc" (global $argc (mut i32)))
  (import "wasmjax" "argv_bytes" (global $argv_bytes (mut i32)))
  (import "wasmjax" "environc" (global $environc (mut i32)))
  (import "wasmjax" "environ_bytes" (global $environ_bytes (mut i32)))
  (import "wasmjax" "stdin_end" (global $stdin_end (mut i32)))
  (import "wasmjax" "stdin_cursor" (global $stdin_cursor (mut i32)))

  (func (export "proc_exit") (param $code i32)
    (call $halt (local.get $code))
    (unreachable))

  ;; Output

  (func (export "fd_write")
    (param $fd i32) (param $iovs i32) (param $count i32) (param $written i32) (result i32)
    (local $total i32) (local $size i32)
    (if (i32.ge_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 2))
      (then (return (i32.const 8))))
    (local.set $total (i32.const 0))
    (block $done
      (br_if $done (i32.eqz (local.get $count)))
      (loop $next
        (local.set $size (i32.load offset=4 (local.get $iovs)))
        (if (i32.eq (local.get $fd) (i32.const 1))
          (then (call $out_bytes (i32.load (local.get $iovs)) (local.get $size)))
          (else (call $err_bytes (i32.load (local.get $iovs)) (local.get $size))))
        (local.set $total (i32.add (local.get $total) (local.get $size)))
        (local.set $iovs (i32.add (local.get $iovs) (i32.const 8)))
        (br_if $next (local.tee $count (i32.sub (local.get $count) (i32.const 1))))))
    (i32.store (local.get $written) (local.get $total))
    (i32.const 0))

  ;; Eight bytes a round, then four, two and one.
  (func $out_bytes (param $from i32) (param $size i32)
    (block $rest
      (br_if $rest (i32.lt_u (local.get $size) (i32.const 8)))
      (loop $eight
        (call $out (i32.load8_u (local.get $from)))
        (call $out (i32.load8_u offset=1 (local.get $from)))
        (call $out (i32.load8_u offset=2 (local.get $from)))
        (call $out (i32.load8_u offset=3 (local.get $from)))
        (call $out (i32.load8_u offset=4 (local.get $from)))
        (call $out (i32.load8_u offset=5 (local.get $from)))
        (call $out (i32.load8_u offset=6 (local.get $from)))
        (call $out (i32.load8_u offset=7 (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 8)))
        (local.tee $size (i32.sub (local.get $size) (i32.const 8)))
        (br_if $eight (i32.ge_u (i32.const 8)))))
    (if (i32.and (local.get $size) (i32.const 4))
      (then
        (call $out (i32.load8_u (local.get $from)))
        (call $out (i32.load8_u offset=1 (local.get $from)))
        (call $out (i32.load8_u offset=2 (local.get $from)))
        (call $out (i32.load8_u offset=3 (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 4)))))
    (if (i32.and (local.get $size) (i32.const 2))
      (then
        (call $out (i32.load8_u (local.get $from)))
        (call $out (i32.load8_u offset=1 (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 2)))))
    (if (i32.and (local.get $size) (i32.const 1))
      (then (call $out (i32.load8_u (local.get $from))))))

  (func $err_bytes (param $from i32) (param $size i32)
    (block $done
      (br_if $done (i32.eqz (local.get $size)))
      (loop $next
        (call $err (i32.load8_u (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 1)))
        (br_if $next (local.tee $size (i32.sub (local.get $size) (i32.const 1)))))))

  ;; Input

  (func (export "fd_read")
    (param $fd i32) (param $iovs i32) (param $count i32) (param $read i32) (result i32)
    (local $start i32) (local $size i32) (local $left i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (local.set $start (global.get $stdin_cursor))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (br_if $done
          (i32.eqz
            (local.tee $left (i32.sub (global.get $stdin_end) (global.get $stdin_cursor)))))
        (if (i32.gt_u
              (local.tee $size (i32.load offset=4 (local.get $iovs)))
              (local.get $left))
          (then (local.set $size (local.get $left))))
        (call $copy_input
          (global.get $stdin_cursor) (i32.load (local.get $iovs)) (local.get $size))
        (global.set $stdin_cursor (i32.add (global.get $stdin_cursor) (local.get $size)))
        (local.set $iovs (i32.add (local.get $iovs) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $read) (i32.sub (global.get $stdin_cursor) (local.get $start)))
    (i32.const 0))

  ;; Input bytes $from .. $from + $size into memory: four a round, then one by one.
  (func $copy_input (param $from i32) (param $to i32) (param $size i32)
    (block $rest
      (br_if $rest (i32.lt_u (local.get $size) (i32.const 4)))
      (loop $four
        (i32.store8 (local.get $to) (call $input (local.get $from)))
        (i32.store8 offset=1
          (local.get $to) (call $input (i32.add (local.get $from) (i32.const 1))))
        (i32.store8 offset=2
          (local.get $to) (call $input (i32.add (local.get $from) (i32.const 2))))
        (i32.store8 offset=3
          (local.get $to) (call $input (i32.add (local.get $from) (i32.const 3))))
        (local.set $from (i32.add (local.get $from) (i32.const 4)))
        (local.set $to (i32.add (local.get $to) (i32.const 4)))
        (local.tee $size (i32.sub (local.get $size) (i32.const 4)))
        (br_if $four (i32.ge_u (i32.const 4)))))
    (block $done
      (br_if $done (i32.eqz (local.get $size)))
      (loop $one
        (i32.store8 (local.get $to) (call $input (local.get $from)))
        (local.set $from (i32.add (local.get $from) (i32.const 1)))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (br_if $one (local.tee $size (i32.sub (local.get $size) (i32.const 1)))))))

  (func (export "args_sizes_get") (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (global.get $argc))
    (i32.store (local.get $bytes) (global.get $argv_bytes))
    (i32.const 0))

  (func (export "args_get") (param $pointers i32) (param $to i32) (result i32)
    (call $strings
      (i32.const 0) (global.get $argv_bytes) (global.get $argc)
      (local.get $pointers) (local.get $to))
    (i32.const 0))

  (func (export "environ_sizes_get") (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (global.get $environc))
    (i32.store (local.get $bytes) (global.get $environ_bytes))
    (i32.const 0))

  (func (export "environ_get") (param $pointers i32) (param $to i32) (result i32)
    (call $strings
      (global.get $argv_bytes) (global.get $environ_bytes) (global.get $environc)
      (local.get $pointers) (local.get $to))
    (i32.const 0))

  ;; Copies strings from the input space and stores where each begins.
  (func $strings
    (param $from i32) (param $size i32) (param $count i32) (param $pointers i32) (param $to i32)
    (call $copy_input (local.get $from) (local.get $to) (local.get $size))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (i32.store (local.get $pointers) (local.get $to))
        (local.set $pointers (i32.add (local.get $pointers) (i32.const 4)))
        (loop $byte
          (local.get $to)
          (local.set $to (i32.add (local.get $to) (i32.const 1)))
          (br_if $byte (i32.load8_u)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next))))

  ;; Descriptors

  (func (export "fd_close") (param $fd i32) (result i32)
    (call $if_open (local.get $fd) (i32.const 0)))

  (func (export "fd_seek")
    (param $fd i32) (param $offset i64) (param $whence i32) (param $position i32) (result i32)
    (call $if_open (local.get $fd) (i32.const 70)))

  ;; File type unknown, no flags, the right to read stdin (2) or write the others (64).
  (func (export "fd_fdstat_get") (param $fd i32) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $to) (i64.const 0))
    (i64.store offset=8
      (local.get $to) (select (i64.const 64) (i64.const 2) (local.get $fd)))
    (i64.store offset=16
      (local.get $to) (select (i64.const 64) (i64.const 2) (local.get $fd)))
    (i32.const 0))

  ;; No directories are open.
  (func (export "fd_prestat_get") (param $fd i32) (param $to i32) (result i32)
    (i32.const 8))

  (func (export "fd_prestat_dir_name")
    (param $fd i32) (param $to i32) (param $size i32) (result i32)
    (call $if_open (local.get $fd) (i32.const 54)))

  (func $if_open (param $fd i32) (param $errno i32) (result i32)
    (select (local.get $errno) (i32.const 8) (i32.le_u (local.get $fd) (i32.const 2))))
)
