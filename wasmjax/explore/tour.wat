;; The tour: a small program in which everything happens that the chapters speak of.
;;
;; It squares the numbers 0 to 5 into an array, keeps 6 * 7 in memory and reads it back, overwrites
;; it, and prints 3 + 5, which a function adds.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; At 0 what fd_write is to write: where the text is, and its length.
  (data (i32.const 0) "\40\00\00\00\0a\00\00\00")
  (data (i32.const 64) "3 + 5 = ?\0a")

  (func $add (param $a i32) (param $b i32) (result i32)
    (i32.add (local.get $a) (local.get $b)))

  (func $squares (param $to i32) (param $n i32)
    (local $i i32)
    (local.set $i (i32.const 0))
    (loop $next
      (i32.store
        (i32.add (local.get $to) (i32.shl (local.get $i) (i32.const 2)))
        (i32.mul (local.get $i) (local.get $i)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n)))))

  (func (export "_start")
    (local $answer i32)
    (call $squares (i32.const 32) (i32.const 6))
    ;; 42, to memory and back; then another value at the same address.
    (i32.store (i32.const 16) (i32.mul (i32.const 6) (i32.const 7)))
    (local.set $answer (i32.load (i32.const 16)))
    (i32.store (i32.const 16) (i32.sub (local.get $answer) (i32.const 35)))
    (local.set $answer (i32.load (i32.const 16)))
    ;; print(3 + 5): the digit replaces the question mark.
    (local.set $answer (call $add (i32.const 3) (i32.const 5)))
    (i32.store8 (i32.const 72) (i32.add (local.get $answer) (i32.const 48)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))
