;; WASI preview 1: arguments, environment, standard streams, clocks, random numbers, exit.
;;
;; Input is the machine's input space: the arguments, the environment variables (each string ended
;; by a zero byte), then stdin. Descriptors 0, 1 and 2 are open and are not terminals, so a C
;; library buffers its output. There are no files, but programs are linked with functions for them even
;; if they never call one. Error numbers: 8 badf, 28 inval, 54 notdir, 70 spipe.
;;
;; A run depends on nothing but its prompt: the clock is a number that reading it and sleeping
;; advance, random numbers follow from a seed.
(module
  (import "wasmjax" "memory" (memory 0))
  (import "wasmjax" "out" (func $out (param i32)))
  (import "wasmjax" "err" (func $err (param i32)))
  (import "wasmjax" "copy_input" (func $copy_input (param i32 i32 i32)))
  (import "wasmjax" "halt" (func $halt (param i32)))
  (import "wasmjax" "argc" (global $argc (mut i32)))
  (import "wasmjax" "argv_bytes" (global $argv_bytes (mut i32)))
  (import "wasmjax" "environc" (global $environc (mut i32)))
  (import "wasmjax" "environ_bytes" (global $environ_bytes (mut i32)))
  (import "wasmjax" "stdin_end" (global $stdin_end (mut i32)))
  (import "wasmjax" "stdin_cursor" (global $stdin_cursor (mut i32)))
  (import "wasmjax" "clock" (global $clock (mut i64)))
  (import "wasmjax" "random" (global $random (mut i64)))

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

  (func (export "fd_tell") (param $fd i32) (param $position i32) (result i32)
    (call $if_open (local.get $fd) (i32.const 70)))

  ;; Device, inode, file type, links, size and times are all unknown.
  (func (export "fd_filestat_get") (param $fd i32) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $to) (i64.const 0))
    (i64.store offset=8 (local.get $to) (i64.const 0))
    (i64.store offset=16 (local.get $to) (i64.const 0))
    (i64.store offset=24 (local.get $to) (i64.const 0))
    (i64.store offset=32 (local.get $to) (i64.const 0))
    (i64.store offset=40 (local.get $to) (i64.const 0))
    (i64.store offset=48 (local.get $to) (i64.const 0))
    (i64.store offset=56 (local.get $to) (i64.const 0))
    (i32.const 0))

  ;; Nothing about a stream can be changed.
  (func (export "fd_fdstat_set_flags") (param $fd i32) (param $flags i32) (result i32)
    (i32.const 8))

  (func (export "fd_filestat_set_size") (param $fd i32) (param $size i64) (result i32)
    (i32.const 8))

  (func (export "fd_filestat_set_times")
    (param $fd i32) (param $accessed i64) (param $modified i64) (param $flags i32) (result i32)
    (i32.const 8))

  (func (export "fd_sync") (param $fd i32) (result i32)
    (i32.const 8))

  (func (export "fd_pread")
    (param $fd i32) (param $iovs i32) (param $count i32) (param $offset i64) (param $read i32)
    (result i32)
    (select (i32.const 8) (i32.const 70) (local.get $fd)))

  (func (export "fd_pwrite")
    (param $fd i32) (param $iovs i32) (param $count i32) (param $offset i64) (param $written i32)
    (result i32)
    (select (call $if_open (local.get $fd) (i32.const 70)) (i32.const 8) (local.get $fd)))

  (func (export "fd_readdir")
    (param $fd i32) (param $to i32) (param $size i32) (param $cookie i64) (param $used i32)
    (result i32)
    (i32.const 8))

  (func $if_open (param $fd i32) (param $errno i32) (result i32)
    (select (local.get $errno) (i32.const 8) (i32.le_u (local.get $fd) (i32.const 2))))

  ;; Files. A path is relative to a directory's descriptor, and no directory is open.

  (func (export "path_open")
    (param $fd i32) (param $lookup i32) (param $path i32) (param $size i32) (param $open i32)
    (param $base i64) (param $inheriting i64) (param $flags i32) (param $opened i32) (result i32)
    (i32.const 8))

  (func (export "path_filestat_get")
    (param $fd i32) (param $lookup i32) (param $path i32) (param $size i32) (param $to i32)
    (result i32)
    (i32.const 8))

  (func (export "path_filestat_set_times")
    (param $fd i32) (param $lookup i32) (param $path i32) (param $size i32)
    (param $accessed i64) (param $modified i64) (param $flags i32) (result i32)
    (i32.const 8))

  (func (export "path_create_directory")
    (param $fd i32) (param $path i32) (param $size i32) (result i32)
    (i32.const 8))

  (func (export "path_unlink_file")
    (param $fd i32) (param $path i32) (param $size i32) (result i32)
    (i32.const 8))

  (func (export "path_remove_directory")
    (param $fd i32) (param $path i32) (param $size i32) (result i32)
    (i32.const 8))

  (func (export "path_rename")
    (param $fd i32) (param $path i32) (param $size i32)
    (param $new_fd i32) (param $new_path i32) (param $new_size i32) (result i32)
    (i32.const 8))

  (func (export "path_link")
    (param $fd i32) (param $lookup i32) (param $path i32) (param $size i32)
    (param $new_fd i32) (param $new_path i32) (param $new_size i32) (result i32)
    (i32.const 8))

  (func (export "path_symlink")
    (param $path i32) (param $size i32)
    (param $fd i32) (param $new_path i32) (param $new_size i32) (result i32)
    (i32.const 8))

  (func (export "path_readlink")
    (param $fd i32) (param $path i32) (param $size i32)
    (param $to i32) (param $room i32) (param $used i32) (result i32)
    (i32.const 8))

  ;; Time. The realtime clock (0) and the monotonic one (1) are the same; others are not there.

  ;; Every look at the clock advances it by a microsecond.
  (func (export "clock_time_get")
    (param $clock i32) (param $precision i64) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $clock) (i32.const 1)) (then (return (i32.const 8))))
    (i64.store (local.get $to) (global.get $clock))
    (global.set $clock (i64.add (global.get $clock) (i64.const 1000)))
    (i32.const 0))

  (func (export "clock_res_get") (param $clock i32) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $clock) (i32.const 1)) (then (return (i32.const 8))))
    (i64.store (local.get $to) (i64.const 1000))
    (i32.const 0))

  (func (export "sched_yield") (result i32)
    (i32.const 0))

  ;; Waits for the first of several events: streams are always ready, so only a program that waits
  ;; for nothing but clocks sleeps, which advances the clock by the shortest timeout.
  ;;
  ;; A subscription (48 bytes): user data, 8 kind (0 clock, 1 read, 2 write), then a clock's 16
  ;; number, 24 timeout, 40 flags or a stream's 16 descriptor. An event (32 bytes): user data,
  ;; 8 error, 10 kind, 16 number of bytes there are at least, 24 flags.
  (func (export "poll_oneoff")
    (param $subscriptions i32) (param $events i32) (param $count i32) (param $written i32)
    (result i32)
    (local $at i32) (local $left i32) (local $kind i32) (local $time i64) (local $wait i64)
    (if (i32.eqz (local.get $count)) (then (return (i32.const 28))))
    (local.set $wait (i64.const -1))
    (local.set $at (local.get $subscriptions))
    (local.set $left (local.get $count))
    (loop $next
      (if (local.tee $kind (i32.load8_u offset=8 (local.get $at)))
        (then
          (local.set $kind (i32.sub (local.get $kind) (i32.const 1)))
          (if (i32.gt_u (local.get $kind) (i32.const 1)) (then (return (i32.const 28))))
          ;; reading is for descriptor 0, writing for 1 and 2
          (if (i32.gt_u
                (i32.sub (i32.load offset=16 (local.get $at)) (local.get $kind))
                (local.get $kind))
            (then (return (i32.const 8))))
          (local.set $wait (i64.const 0)))
        (else
          (if (i32.gt_u (i32.load offset=16 (local.get $at)) (i32.const 1))
            (then (return (i32.const 28))))
          (if (i64.lt_u (local.tee $time (call $time_left (local.get $at))) (local.get $wait))
            (then (local.set $wait (local.get $time))))))
      (local.set $at (i32.add (local.get $at) (i32.const 48)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (local.set $at (local.get $subscriptions))
    (local.set $left (i32.const 0)) ;; events written
    (loop $next
      (local.set $time (i64.const 0))
      (if (i32.eqz (local.tee $kind (i32.load8_u offset=8 (local.get $at))))
        (then (local.set $time (call $time_left (local.get $at)))))
      (if (i64.le_u (local.get $time) (local.get $wait))
        (then
          (i64.store (local.get $events) (i64.load (local.get $at)))
          (i32.store offset=8 (local.get $events) (i32.shl (local.get $kind) (i32.const 16)))
          (i64.store offset=16
            (local.get $events) (i64.extend_i32_u (i32.ne (local.get $kind) (i32.const 0))))
          (i32.store16 offset=24 (local.get $events) (i32.const 0))
          (local.set $events (i32.add (local.get $events) (i32.const 32)))
          (local.set $left (i32.add (local.get $left) (i32.const 1)))))
      (local.set $at (i32.add (local.get $at) (i32.const 48)))
      (br_if $next (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
    (global.set $clock (i64.add (global.get $clock) (local.get $wait)))
    (i32.store (local.get $written) (local.get $left))
    (i32.const 0))

  ;; Nanoseconds until a clock's event; flag 1 says that the timeout is a time, not a duration.
  (func $time_left (param $subscription i32) (result i64)
    (local $time i64)
    (local.set $time (i64.load offset=24 (local.get $subscription)))
    (if (i32.and (i32.load8_u offset=40 (local.get $subscription)) (i32.const 1))
      (then
        (return
          (select
            (i64.sub (local.get $time) (global.get $clock))
            (i64.const 0)
            (i64.gt_u (local.get $time) (global.get $clock))))))
    (local.get $time))

  ;; Random numbers

  (func (export "random_get") (param $to i32) (param $size i32) (result i32)
    (local $word i64)
    (block $rest
      (br_if $rest (i32.lt_u (local.get $size) (i32.const 8)))
      (loop $eight
        (i64.store (local.get $to) (call $random_word))
        (local.set $to (i32.add (local.get $to) (i32.const 8)))
        (local.tee $size (i32.sub (local.get $size) (i32.const 8)))
        (br_if $eight (i32.ge_u (i32.const 8)))))
    (block $done
      (br_if $done (i32.eqz (local.get $size)))
      (local.set $word (call $random_word))
      (loop $byte
        (i64.store8 (local.get $to) (local.get $word))
        (local.set $word (i64.shr_u (local.get $word) (i64.const 8)))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (br_if $byte (local.tee $size (i32.sub (local.get $size) (i32.const 1))))))
    (i32.const 0))

  ;; splitmix64: a counter and three rounds of mixing.
  (func $random_word (result i64)
    (local $word i64)
    (i64.add (global.get $random) (i64.const 0x9e3779b97f4a7c15))
    (global.set $random (local.tee $word))
    (i64.xor (local.get $word) (i64.shr_u (local.get $word) (i64.const 30)))
    (local.tee $word (i64.mul (i64.const 0xbf58476d1ce4e5b9)))
    (i64.xor (i64.shr_u (local.get $word) (i64.const 27)))
    (local.tee $word (i64.mul (i64.const 0x94d049bb133111eb)))
    (i64.xor (i64.shr_u (local.get $word) (i64.const 31))))
)
