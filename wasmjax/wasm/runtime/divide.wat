;; Integer division. Every instruction here is one step of the machine (i64.extend_i32_u and
;; $narrow are none), so the code counts instructions.
;;
;; 32 bits: the divisor d is normalised, x = d << clz(d) in [2^31, 2^32), and r converges to 2^63/x:
;;
;;   r0 = 2.9 * 2^31 - x            r0 x / 2^63 is within 0.1 of 1
;;   r  = r (2^64 - r x) / 2^63     Newton: the relative error e becomes e^2, always from below
;;
;; After three rounds e < 0.1^8, and where d is small, so that the quotient is large, it is far
;; less: 2.9 makes it so. The estimate n r >> (63 - clz(d)) is never too large; the little that it
;; may lack a loop adds. Instead of x its negation is kept, so that 2^64 - r x is one product modulo
;; 2^64. With d = 0 the estimate is 0 and the remainder n >= d enters the loop, which is why only
;; the loop looks for a zero divisor.
(module
  (import "wasmjax" "narrow" (func $narrow (param i64) (result i32)))
  (import "wasmjax" "trap_divide_by_zero" (func $trap_divide_by_zero))
  (import "wasmjax" "trap_overflow" (func $trap_overflow))

  (func $div_u32 (export "i32.div_u") (param $n i32) (param $d i32) (result i32)
    (local $shift i64) (local $minus_x i64) (local $r i64) (local $q i64)
    (block $done
      (i64.extend_i32_u (local.get $n))
      (i64.shl
        (i64.sub (i64.const 0) (i64.extend_i32_u (local.get $d)))
        (local.tee $shift (i64.extend_i32_u (i32.clz (local.get $d)))))
      (i64.add (local.tee $minus_x) (i64.const 0x173333333))
      (local.tee $r)
      (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
      (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
      (local.tee $r)
      (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
      (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
      (local.tee $r)
      (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
      (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
      (i64.mul (i64.extend_i32_u (local.get $n)))
      (i64.shr_u (i64.sub (i64.const 63) (local.get $shift)))
      (local.tee $q)
      ;; is n - q d < d?
      (i64.sub (i64.mul (i64.extend_i32_u (local.get $d))))
      (br_if $done (i64.lt_u (i64.extend_i32_u (local.get $d))))
      (loop $more
        (if (i32.eqz (local.get $d)) (then (call $trap_divide_by_zero)))
        (i64.sub
          (i64.extend_i32_u (local.get $n))
          (i64.mul
            (local.tee $q (i64.add (local.get $q) (i64.const 1)))
            (i64.extend_i32_u (local.get $d))))
        (br_if $more (i64.ge_u (i64.extend_i32_u (local.get $d))))))
    (call $narrow (local.get $q)))

  ;; The same, but for what is kept at the end.
  (func $rem_u32 (export "i32.rem_u") (param $n i32) (param $d i32) (result i32)
    (local $shift i64) (local $minus_x i64) (local $r i64)
    (block $done
      (i64.extend_i32_u (local.get $n))
      (i64.shl
        (i64.sub (i64.const 0) (i64.extend_i32_u (local.get $d)))
        (local.tee $shift (i64.extend_i32_u (i32.clz (local.get $d)))))
      (i64.add (local.tee $minus_x) (i64.const 0x173333333))
      (local.tee $r)
      (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
      (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
      (local.tee $r)
      (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
      (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
      (local.tee $r)
      (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
      (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
      (i64.mul (i64.extend_i32_u (local.get $n)))
      (i64.shr_u (i64.sub (i64.const 63) (local.get $shift)))
      (i64.sub (i64.mul (i64.extend_i32_u (local.get $d))))
      (local.tee $r)
      (br_if $done (i64.lt_u (i64.extend_i32_u (local.get $d))))
      (loop $more
        (if (i32.eqz (local.get $d)) (then (call $trap_divide_by_zero)))
        (local.tee $r (i64.sub (local.get $r) (i64.extend_i32_u (local.get $d))))
        (br_if $more (i64.ge_u (i64.extend_i32_u (local.get $d))))))
    (call $narrow (local.get $r)))

  (func (export "i32.div_s") (param $n i32) (param $d i32) (result i32)
    (local $q i32)
    (if (i32.lt_s (i32.or (local.get $n) (local.get $d)) (i32.const 0))
      (then
        (local.set $q
          (call $div_u32 (call $abs32 (local.get $n)) (call $abs32 (local.get $d))))
        (if (i32.lt_s (i32.xor (local.get $n) (local.get $d)) (i32.const 0))
          (then (return (i32.sub (i32.const 0) (local.get $q)))))
        ;; of two negative numbers: only -2^31 / -1 = 2^31 has the sign bit
        (if (i32.lt_s (local.get $q) (i32.const 0)) (then (call $trap_overflow)))
        (return (local.get $q))))
    (call $div_u32 (local.get $n) (local.get $d)))

  (func (export "i32.rem_s") (param $n i32) (param $d i32) (result i32)
    (local $r i32)
    (if (i32.lt_s (i32.or (local.get $n) (local.get $d)) (i32.const 0))
      (then
        (local.set $r
          (call $rem_u32 (call $abs32 (local.get $n)) (call $abs32 (local.get $d))))
        (return
          (select
            (i32.sub (i32.const 0) (local.get $r))
            (local.get $r)
            (i32.lt_s (local.get $n) (i32.const 0))))))
    (call $rem_u32 (local.get $n) (local.get $d)))

  (func $abs32 (param $a i32) (result i32)
    (select
      (i32.sub (i32.const 0) (local.get $a))
      (local.get $a)
      (i32.lt_s (local.get $a) (i32.const 0))))

  ;; 64 bits. Operands below 2^32 take the routines above.
  (func $div_u64 (export "i64.div_u") (param $n i64) (param $d i64) (result i64)
    (if (result i64)
      (call $narrow (i64.shr_u (i64.or (local.get $n) (local.get $d)) (i64.const 32)))
      (then
        (drop (call $divide64 (local.get $n) (local.get $d))))
      (else
        (i64.extend_i32_u
          (call $div_u32 (call $narrow (local.get $n)) (call $narrow (local.get $d)))))))

  (func $rem_u64 (export "i64.rem_u") (param $n i64) (param $d i64) (result i64)
    (local $r i64)
    (if (result i64)
      (call $narrow (i64.shr_u (i64.or (local.get $n) (local.get $d)) (i64.const 32)))
      (then
        (local.set $r (call $divide64 (local.get $n) (local.get $d)))
        (drop)
        (local.get $r))
      (else
        (i64.extend_i32_u
          (call $rem_u32 (call $narrow (local.get $n)) (call $narrow (local.get $d)))))))

  (func (export "i64.div_s") (param $n i64) (param $d i64) (result i64)
    (local $q i64)
    (if (call $narrow (i64.shr_u (i64.or (local.get $n) (local.get $d)) (i64.const 32)))
      (then
        (local.set $q
          (call $div_u64 (call $abs64 (local.get $n)) (call $abs64 (local.get $d))))
        (if (i64.lt_s (i64.xor (local.get $n) (local.get $d)) (i64.const 0))
          (then (return (i64.sub (i64.const 0) (local.get $q)))))
        ;; of two numbers of one sign: only -2^63 / -1 = 2^63 has the sign bit
        (if (i64.lt_s (local.get $q) (i64.const 0)) (then (call $trap_overflow)))
        (return (local.get $q))))
    (i64.extend_i32_u
      (call $div_u32 (call $narrow (local.get $n)) (call $narrow (local.get $d)))))

  (func (export "i64.rem_s") (param $n i64) (param $d i64) (result i64)
    (local $r i64)
    (if (call $narrow (i64.shr_u (i64.or (local.get $n) (local.get $d)) (i64.const 32)))
      (then
        (local.set $r
          (call $rem_u64 (call $abs64 (local.get $n)) (call $abs64 (local.get $d))))
        (return
          (select
            (i64.sub (i64.const 0) (local.get $r))
            (local.get $r)
            (i64.lt_s (local.get $n) (i64.const 0))))))
    (i64.extend_i32_u
      (call $rem_u32 (call $narrow (local.get $n)) (call $narrow (local.get $d)))))

  (func $abs64 (param $a i64) (result i64)
    (select
      (i64.sub (i64.const 0) (local.get $a))
      (local.get $a)
      (i64.lt_s (local.get $a) (i64.const 0))))

  ;; Quotient and remainder. x is the upper half of the normalised divisor, plus 1 so that the
  ;; reciprocal r is a lower bound. Each round takes the upper half of the normalised n times r off
  ;; n and so shortens it by some 29 bits, until n < d.
  (func $divide64 (param $n i64) (param $d i64) (result i64 i64)
    (local $shift i64) (local $minus_x i64) (local $r i64) (local $q i64) (local $part i64)
    (if (i64.eqz (local.get $d)) (then (call $trap_divide_by_zero)))
    (i64.sub
      (i64.const -1)
      (i64.shr_u
        (i64.shl (local.get $d) (local.tee $shift (i64.clz (local.get $d))))
        (i64.const 32)))
    (i64.add (local.tee $minus_x) (i64.const 0x173333333))
    (local.tee $r)
    (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
    (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
    (local.tee $r)
    (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
    (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
    (local.tee $r)
    (i64.shr_u (i64.mul (local.get $minus_x)) (i64.const 32))
    (i64.shr_u (i64.mul (local.get $r)) (i64.const 31))
    (local.set $r)
    (local.set $shift (i64.sub (i64.const 63) (local.get $shift)))
    (local.set $q (i64.const 0))
    (block $done
      (br_if $done (i64.lt_u (local.get $n) (local.get $d)))
      (loop $more
        ;; n >= d, so clz(n) <= clz(d): this shifts by 63 - clz(d) + clz(n) <= 63
        (i64.shr_u
          (i64.mul
            (i64.shr_u
              (i64.shl (local.get $n) (local.tee $part (i64.clz (local.get $n))))
              (i64.const 32))
            (local.get $r))
          (i64.add (local.get $part) (local.get $shift)))
        ;; at least 1
        (local.tee $part)
        (i64.or (i64.extend_i32_u (i64.eqz (local.get $part))))
        (local.set $q (i64.add (local.tee $part) (local.get $q)))
        (local.tee $n (i64.sub (local.get $n) (i64.mul (local.get $part) (local.get $d))))
        (br_if $more (i64.ge_u (local.get $d)))))
    (local.get $q)
    (local.get $n))
)
