// The SIMD instructions that the host executes for the guest, by mnemonic: lists for the assembler (Vector.S) and C.
// Each becomes a micro-operation dst = mnemonic(dst, src), or, with an immediate, 256 pieces of code to call.
#pragma once

/// XMM, raising SIMD floating-point exceptions.
#define SOFT_FLOAT_INSTRUCTIONS(X)                                                                           \
  X(addpd) X(addps) X(addsd) X(addss) X(addsubpd) X(addsubps) X(cvtdq2ps) X(cvtpd2dq) X(cvtpd2ps)            \
  X(cvtps2dq) X(cvtps2pd) X(cvtsd2ss) X(cvtss2sd) X(cvttpd2dq) X(cvttps2dq) X(divpd) X(divps) X(divsd)       \
  X(divss) X(haddpd) X(haddps) X(hsubpd) X(hsubps) X(maxpd) X(maxps) X(maxsd) X(maxss) X(minpd) X(minps)     \
  X(minsd) X(minss) X(mulpd) X(mulps) X(mulsd) X(mulss) X(sqrtpd) X(sqrtps) X(sqrtsd) X(sqrtss) X(subpd)     \
  X(subps) X(subsd) X(subss)

/// XMM, without exceptions.
#define SOFT_XMM_INSTRUCTIONS(X)                                                                             \
  X(aesdec) X(aesdeclast) X(aesenc) X(aesenclast) X(aesimc) X(andnpd) X(andnps) X(andpd) X(andps)            \
  X(cvtdq2pd) X(movddup) X(movshdup) X(movsldup) X(orpd) X(orps) X(packusdw) X(pcmpeqq) X(pcmpgtq)           \
  X(phminposuw) X(pmaxsb) X(pmaxsd) X(pmaxud) X(pmaxuw) X(pminsb) X(pminsd) X(pminud) X(pminuw)              \
  X(pmovsxbd) X(pmovsxbq) X(pmovsxbw) X(pmovsxdq) X(pmovsxwd) X(pmovsxwq) X(pmovzxbd) X(pmovzxbq)            \
  X(pmovzxbw) X(pmovzxdq) X(pmovzxwd) X(pmovzxwq) X(pmuldq) X(pmulld) X(punpckhqdq) X(punpcklqdq)            \
  X(rcpps) X(rcpss) X(rsqrtps) X(rsqrtss) X(sha1msg1) X(sha1msg2) X(sha1nexte) X(sha256msg1)                 \
  X(sha256msg2) X(unpckhpd) X(unpckhps) X(unpcklpd) X(unpcklps) X(xorpd) X(xorps)

/// What becomes part of an XMM register; the sources of the last four are general registers.
#define SOFT_XMM_PARTS(X) X(movd) X(movq) X(movlps) X(movhps) X(cvtsi2sdl) X(cvtsi2sdq) X(cvtsi2ssl) X(cvtsi2ssq)

/// XMM and MMX.
#define SOFT_MMX_INSTRUCTIONS(X)                                                                             \
  X(pabsb) X(pabsd) X(pabsw) X(packssdw) X(packsswb) X(packuswb) X(paddb) X(paddd) X(paddq) X(paddsb)        \
  X(paddsw) X(paddusb) X(paddusw) X(paddw) X(pand) X(pandn) X(pavgb) X(pavgw) X(pcmpeqb) X(pcmpeqd)          \
  X(pcmpeqw) X(pcmpgtb) X(pcmpgtd) X(pcmpgtw) X(phaddd) X(phaddsw) X(phaddw) X(phsubd) X(phsubsw)            \
  X(phsubw) X(pmaddubsw) X(pmaddwd) X(pmaxsw) X(pmaxub) X(pminsw) X(pminub) X(pmulhrsw) X(pmulhuw)           \
  X(pmulhw) X(pmullw) X(pmuludq) X(por) X(psadbw) X(pshufb) X(psignb) X(psignd) X(psignw) X(pslld)           \
  X(psllq) X(psllw) X(psrad) X(psraw) X(psrld) X(psrlq) X(psrlw) X(psubb) X(psubd) X(psubq) X(psubsb)        \
  X(psubsw) X(psubusb) X(psubusw) X(psubw) X(punpckhbw) X(punpckhdq) X(punpckhwd) X(punpcklbw)               \
  X(punpckldq) X(punpcklwd) X(pxor)

/// XMM with XMM0 as the third operand.
#define SOFT_XMM0_INSTRUCTIONS(X) X(blendvpd) X(blendvps) X(pblendvb) X(sha256rnds2)

/// XMM and an immediate, raising SIMD floating-point exceptions.
#define SOFT_FLOAT_IMMEDIATES(X)                                                                             \
  X(cmppd) X(cmpps) X(cmpsd) X(cmpss) X(dppd) X(dpps) X(roundpd) X(roundps) X(roundsd) X(roundss)

/// XMM and an immediate, without exceptions.
#define SOFT_XMM_IMMEDIATES(X)                                                                               \
  X(aeskeygenassist) X(blendpd) X(blendps) X(insertps) X(mpsadbw) X(palignr) X(pblendw) X(pclmulqdq)         \
  X(pshufd) X(pshufhw) X(pshuflw) X(sha1rnds4) X(shufpd) X(shufps)

/// XMM shifted by an immediate.
#define SOFT_XMM_SHIFTS(X)                                                                                   \
  X(pslld) X(pslldq) X(psllq) X(psllw) X(psrad) X(psraw) X(psrld) X(psrldq) X(psrlq) X(psrlw)

/// A general register or memory into an element of XMM; an element to a general register.
#define SOFT_XMM_INSERTS(X) X(pinsrb) X(pinsrd) X(pinsrq) X(pinsrw)
#define SOFT_XMM_EXTRACTS(X, Y) X(extractps) X(pextrb) X(pextrd) Y(pextrq) X(pextrw)

/// String comparisons.
#define SOFT_STRING_INSTRUCTIONS(X) X(pcmpestri) X(pcmpestrm) X(pcmpistri) X(pcmpistrm)

/// MMX and an immediate.
#define SOFT_MMX_IMMEDIATES(X) X(palignr) X(pshufw)
#define SOFT_MMX_SHIFTS(X) X(pslld) X(psllq) X(psllw) X(psrad) X(psraw) X(psrld) X(psrlq) X(psrlw)
