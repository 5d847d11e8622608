/// What an instruction does: the manual's mnemonic (SDM vol. 2, chapters 3 to 5), with one case for each family of
/// conditions (`jcc`, `setcc`, `cmovcc`), and `callf`, `jmpf` and `retf` for the far forms.
public enum Operation: UInt16, Sendable, CaseIterable {
  /// No instruction.
  case invalid

  case aaa, aad, aam, aas, adc, adcx, add, addpd, addps, addsd, addss, addsubpd, addsubps, adox, aesdec, aesdeclast,
    aesenc, aesenclast, aesimc, aeskeygenassist, and, andn, andnpd, andnps, andpd, andps, arpl
  case bextr, blendpd, blendps, blendvpd, blendvps, blsi, blsmsk, blsr, bound, bsf, bsr, bswap, bt, btc, btr, bts,
    bzhi
  case call, callf, cbw, cdq, cdqe, clac, clc, cld, clflush, clflushopt, cli, clts, clwb, cmc, cmovcc, cmp, cmppd,
    cmpps, cmps, cmpsd, cmpss, cmpxchg, cmpxchg16b, cmpxchg8b, comisd, comiss, cpuid, cqo, crc32, cvtdq2pd, cvtdq2ps,
    cvtpd2dq, cvtpd2pi, cvtpd2ps, cvtpi2pd, cvtpi2ps, cvtps2dq, cvtps2pd, cvtps2pi, cvtsd2si, cvtsd2ss, cvtsi2sd,
    cvtsi2ss, cvtss2sd, cvtss2si, cvttpd2dq, cvttpd2pi, cvttps2dq, cvttps2pi, cvttsd2si, cvttss2si, cwd, cwde
  case daa, das, dec, div, divpd, divps, divsd, divss, dppd, dpps
  case emms, endbr32, endbr64, enter, extractps
  case f2xm1, fabs, fadd, faddp, fbld, fbstp, fchs, fcmovb, fcmovbe, fcmove, fcmovnb, fcmovnbe, fcmovne, fcmovnu,
    fcmovu, fcom, fcomi, fcomip, fcomp, fcompp, fcos, fdecstp, fdiv, fdivp, fdivr, fdivrp, ffree, ffreep, fiadd,
    ficom, ficomp, fidiv, fidivr, fild, fimul, fincstp, fist, fistp, fisttp, fisub, fisubr, fld, fld1, fldcw, fldenv,
    fldl2e, fldl2t, fldlg2, fldln2, fldpi, fldz, fmul, fmulp, fnclex, fndisi, fneni, fninit, fnop, fnsave, fnsetpm,
    fnstcw, fnstenv, fnstsw, fpatan, fprem, fprem1, fptan, frndint, frstor, fscale, fsin, fsincos, fsqrt, fst, fstp,
    fsub, fsubp, fsubr, fsubrp, ftst, fucom, fucomi, fucomip, fucomp, fucompp, fwait, fxam, fxch, fxrstor, fxsave,
    fxtract, fyl2x, fyl2xp1
  case haddpd, haddps, hlt, hsubpd, hsubps
  case idiv, imul, `in`, inc, ins, insertps, int, int1, int3, into, invd, invlpg, invpcid, iret
  case jcc, jcxz, jmp, jmpf
  case lahf, lar, lddqu, ldmxcsr, lds, lea, leave, les, lfence, lfs, lgdt, lgs, lidt, lldt, lmsw, lods, loop, loope,
    loopne, lsl, lss, ltr, lzcnt
  case maskmovdqu, maskmovq, maxpd, maxps, maxsd, maxss, mfence, minpd, minps, minsd, minss, monitor, mov, movapd,
    movaps, movbe, movd, movddup, movdq2q, movdqa, movdqu, movhlps, movhpd, movhps, movlhps, movlpd, movlps, movmskpd,
    movmskps, movntdq, movntdqa, movnti, movntpd, movntps, movntq, movq, movq2dq, movs, movsd, movshdup, movsldup,
    movss, movsx, movsxd, movupd, movups, movzx, mpsadbw, mul, mulpd, mulps, mulsd, mulss, mulx, mwait
  case neg, nop, not
  case or, orpd, orps, out, outs
  case pabsb, pabsd, pabsw, packssdw, packsswb, packusdw, packuswb, paddb, paddd, paddq, paddsb, paddsw, paddusb,
    paddusw, paddw, palignr, pand, pandn, pause, pavgb, pavgw, pblendvb, pblendw, pclmulqdq, pcmpeqb, pcmpeqd,
    pcmpeqq, pcmpeqw, pcmpestri, pcmpestrm, pcmpgtb, pcmpgtd, pcmpgtq, pcmpgtw, pcmpistri, pcmpistrm, pdep, pext,
    pextrb, pextrd, pextrq, pextrw, phaddd, phaddsw, phaddw, phminposuw, phsubd, phsubsw, phsubw, pinsrb, pinsrd,
    pinsrq, pinsrw, pmaddubsw, pmaddwd, pmaxsb, pmaxsd, pmaxsw, pmaxub, pmaxud, pmaxuw, pminsb, pminsd, pminsw,
    pminub, pminud, pminuw, pmovmskb, pmovsxbd, pmovsxbq, pmovsxbw, pmovsxdq, pmovsxwd, pmovsxwq, pmovzxbd, pmovzxbq,
    pmovzxbw, pmovzxdq, pmovzxwd, pmovzxwq, pmuldq, pmulhrsw, pmulhuw, pmulhw, pmulld, pmullw, pmuludq, pop, popa,
    popcnt, popf, por, prefetchnta, prefetcht0, prefetcht1, prefetcht2, prefetchw, psadbw, pshufb, pshufd, pshufhw,
    pshuflw, pshufw, psignb, psignd, psignw, pslld, pslldq, psllq, psllw, psrad, psraw, psrld, psrldq, psrlq, psrlw,
    psubb, psubd, psubq, psubsb, psubsw, psubusb, psubusw, psubw, ptest, punpckhbw, punpckhdq, punpckhqdq, punpckhwd,
    punpcklbw, punpckldq, punpcklqdq, punpcklwd, push, pusha, pushf, pxor
  case rcl, rcpps, rcpss, rcr, rdfsbase, rdgsbase, rdmsr, rdpid, rdpkru, rdpmc, rdrand, rdseed, rdtsc, rdtscp, ret,
    retf, rol, ror, rorx, roundpd, roundps, roundsd, roundss, rsm, rsqrtps, rsqrtss
  case sahf, salc, sar, sarx, sbb, scas, setcc, sfence, sgdt, sha1msg1, sha1msg2, sha1nexte, sha1rnds4, sha256msg1,
    sha256msg2, sha256rnds2, shl, shld, shlx, shr, shrd, shrx, shufpd, shufps, sidt, sldt, smsw, sqrtpd, sqrtps,
    sqrtsd, sqrtss, stac, stc, std, sti, stmxcsr, stos, str, sub, subpd, subps, subsd, subss, swapgs, syscall,
    sysenter, sysexit, sysret
  case test, tzcnt
  case ucomisd, ucomiss, ud0, ud1, ud2, unpckhpd, unpckhps, unpcklpd, unpcklps
  case verr, verw, vmcall, vmmcall
  case wbinvd, wrfsbase, wrgsbase, wrmsr, wrpkru
  case xadd, xchg, xgetbv, xlat, xor, xorpd, xorps, xrstor, xrstors, xsave, xsavec, xsaveopt, xsaves, xsetbv
}
