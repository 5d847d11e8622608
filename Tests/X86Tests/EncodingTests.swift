import Testing
import X86

/// Code, mode, and what it is.
struct Encoding: Sendable, CustomTestStringConvertible {
  let text: String
  let mode: DecodeMode
  let expected: String
  var testDescription: String { "\(text) (\(mode))" }
}

private func at16(_ text: String, _ expected: String) -> Encoding {
  .init(text: text, mode: .bits16, expected: expected)
}
private func at32(_ text: String, _ expected: String) -> Encoding {
  .init(text: text, mode: .bits32, expected: expected)
}
private func at64(_ text: String, _ expected: String) -> Encoding {
  .init(text: text, mode: .bits64, expected: expected)
}

@Suite struct EncodingTests {
  static let prefixes = [
    at64("66 66 66 90", "xchg ax,ax"),
    at64("48 66 01 d8", "add ax,bx"),
    at64("66 48 01 d8", "add rax,rbx"),
    at64("48 40 01 d8", "add eax,ebx"),
    at64("40 88 e0", "mov al,spl"),
    at64("88 e0", "mov al,ah"),
    at64("f2 f3 0f 10 c1", "movss xmm0,xmm1"),
    at64("f3 f2 0f 10 c1", "movsd xmm0,xmm1"),
    at64("66 f2 0f 10 c1", "movsd xmm0,xmm1"),
    at64("66 0f 10 c1", "movupd xmm0,xmm1"),
    at64("f2 66 0f 38 f1 c1", "crc32 eax,cx"),
    at64("f3 0f 38 f0 00", "#UD"),
    at64("66 f3 0f b8 c1", "popcnt ax,cx"),
    at64("2e 64 8b 00", "mov eax,DWORD PTR fs:[rax]"),
    at64("64 2e 8b 00", "mov eax,DWORD PTR fs:[rax]"),
    at32("64 2e 8b 00", "mov eax,DWORD PTR cs:[eax]"),
    at64("67 8b 00", "mov eax,DWORD PTR [eax]"),
    at32("67 8b 00", "mov eax,DWORD PTR [bx+si]"),
    at16("67 8b 00", "mov ax,WORD PTR [eax]"),
    at16("66 8b 00", "mov eax,DWORD PTR [bx+si]"),
    at64("f3 a4", "rep movs BYTE PTR es:[rdi],BYTE PTR ds:[rsi]"),
    at64("f3 65 48 a7", "repz cmps QWORD PTR gs:[rsi],QWORD PTR es:[rdi]"),
    at64("67 66 ab", "stos WORD PTR es:[edi],ax"),
    at64("f2 c3", "bnd ret"),
    at64("3e ff e0", "notrack jmp rax"),
    at64("66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", "xchg ax,ax"),
    at64("66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", "too long"),
    at64("66 66 66 66 66 66 66 66 66 66 66 66 66 66 04 00", "too long"),
    at64("66 66 66 66 66 66 66 66 66 66 66 66 66 66 66", "too long"),
  ]

  static let lock = [
    at64("f0 01 18", "lock add DWORD PTR [rax],ebx"),
    at64("f0 01 d8", "#UD"),
    at64("f0 03 18", "#UD"),
    at64("f0 39 18", "#UD"),
    at64("f0 0f c7 08", "lock cmpxchg8b QWORD PTR [rax]"),
    at64("f0 48 0f c7 08", "lock cmpxchg16b XMMWORD PTR [rax]"),
    at64("f0 87 18", "lock xchg DWORD PTR [rax],ebx"),
    at64("f0 0f ba 20 01", "#UD"),
    at64("f0 0f ba 28 01", "lock bts DWORD PTR [rax],0x1"),
    at64("f0 90", "#UD"),
    at64("f0 8b 00", "#UD"),
  ]

  static let addressing = [
    at64("8b 05 10 00 00 00", "mov eax,DWORD PTR [rip+0x10]        # 0x1016"),
    at64("67 8b 05 f0 ff ff ff", "mov eax,DWORD PTR [eip+0xfffffffffffffff0]        # 0xff7"),
    at64("c7 05 10 00 00 00 78 56 34 12", "mov DWORD PTR [rip+0x10],0x12345678        # 0x101a"),
    at32("8b 05 10 00 00 00", "mov eax,DWORD PTR ds:0x10"),
    at64("8b 04 25 10 00 00 80", "mov eax,DWORD PTR ds:0xffffffff80000010"),
    at64("8b 04 24", "mov eax,DWORD PTR [rsp]"),
    at64("41 8b 04 24", "mov eax,DWORD PTR [r12]"),
    at64("42 8b 04 20", "mov eax,DWORD PTR [rax+r12*1]"),
    at64("8b 44 20 80", "mov eax,DWORD PTR [rax+riz*1-0x80]"),
    at64("41 8b 45 00", "mov eax,DWORD PTR [r13+0x0]"),
    at64("8b 04 6d 10 00 00 00", "mov eax,DWORD PTR [rbp*2+0x10]"),
    at16("8b 06 34 12", "mov ax,WORD PTR ds:0x1234"),
    at16("8b 46 fe", "mov ax,WORD PTR [bp-0x2]"),
    at16("8b 07", "mov ax,WORD PTR [bx]"),
    at16("8b 83 00 80", "mov ax,WORD PTR [bp+di-0x8000]"),
    at16("67 8b 04 24", "mov ax,WORD PTR [esp]"),
    at64("a0 88 77 66 55 44 33 22 11", "movabs al,ds:0x1122334455667788"),
    at64("67 a1 44 33 22 11", "mov eax,ds:0x11223344"),
    at32("a3 44 33 22 11", "mov ds:0x11223344,eax"),
    at16("a3 22 11", "mov ds:0x1122,ax"),
    at64("48 b8 88 77 66 55 44 33 22 11", "movabs rax,0x1122334455667788"),
    at64("d7", "xlat BYTE PTR ds:[rbx]"),
  ]

  static let immediates = [
    at64("48 83 c0 ff", "add rax,0xffffffffffffffff"),
    at64("48 81 c0 00 00 00 80", "add rax,0xffffffff80000000"),
    at32("83 c0 ff", "add eax,0xffffffff"),
    at32("66 83 c0 ff", "add ax,0xffff"),
    at64("6a ff", "push 0xffffffffffffffff"),
    at64("66 68 34 12", "pushw 0x1234"),
    at64("c8 34 12 05", "enter 0x1234,0x5"),
    at64("c1 e0 80", "shl eax,0x80"),
    at64("d1 e0", "shl eax,1"),
    at64("f7 c8 01 00 00 00", "test eax,0x1"),
    at32("9a 78 56 34 12 cd ab", "call 0xabcd:0x12345678"),
    at16("ea f0 ff 00 f0", "jmp 0xf000:0xfff0"),
    at16("66 ea f0 ff 00 00 00 f0", "jmp 0xf000:0xfff0"),
    at64("9a 78 56 34 12 cd ab", "#UD"),
    at64("cd 80", "int 0x80"),
    at64("d4 0a", "#UD"),
    at32("d4 0a", "aam 0xa"),
  ]

  static let branches = [
    at64("e8 fb ff ff ff", "call 0x1000"),
    at64("66 e8 fb ff ff ff", "call 0x1001"),
    at32("66 e8 fc ff", "callw 0x1000"),
    at16("e8 fd ff", "call 0x1000"),
    at16("e8 fd ef", "call 0x0"),
    at64("eb fe", "jmp 0x1000"),
    at64("74 fe", "je 0x1000"),
    at64("0f 8f fa ff ff ff", "jg 0x1000"),
    at64("e3 fe", "jrcxz 0x1000"),
    at64("67 e3 fd", "jecxz 0x1000"),
    at16("e3 fe", "jcxz 0x1000"),
    at64("ff 10", "call QWORD PTR [rax]"),
    at64("66 ff d0", "call rax"),
    at64("ff 18", "call FWORD PTR [rax]"),
    at64("48 ff 28", "jmp TBYTE PTR [rax]"),
    at64("ff d8", "#UD"),
    at64("c3", "ret"),
    at64("48 cb", "retfq"),
    at64("48 cf", "iretq"),
    at32("cf", "iret"),
    at16("66 cf", "iretd"),
  ]

  static let modes = [
    at64("40", "more"),
    at32("40", "inc eax"),
    at64("06", "#UD"),
    at32("06", "push es"),
    at64("27", "#UD"),
    at32("63 c8", "arpl ax,cx"),
    at64("63 c8", "movsxd ecx,eax"),
    at64("48 63 c8", "movsxd rcx,eax"),
    at32("c4 00", "les eax,FWORD PTR [eax]"),
    at64("c4 00", "more"),
    at32("62 00", "bound eax,QWORD PTR [eax]"),
    at16("62 00", "bound ax,DWORD PTR [bx+si]"),
    at32("c4 e2 70 f2 c2", "andn eax,ecx,edx"),
    at64("c4 e2 f0 f2 c2", "andn rax,rcx,rdx"),
    at32("c4 e2 f0 f2 c2", "andn eax,ecx,edx"),
    at64("66 c4 e2 70 f2 c2", "#UD"),
    at64("f3 c4 e2 70 f2 c2", "#UD"),
    at64("f0 c4 e2 70 f2 c2", "#UD"),
    at64("48 c4 e2 70 f2 c2", "#UD"),
    at64("67 c4 e2 70 f2 00", "andn eax,ecx,DWORD PTR [eax]"),
    at64("c4 e2 74 f2 c2", "#UD"),
    at64("c4 e3 7b f0 c2 07", "rorx eax,edx,0x7"),
    at64("c4 e3 73 f0 c2 07", "#UD"),
    at64("c5 f8 77", "#UD"),
    at64("62 f1 7c 48 10 00", "#UD"),
    at32("0f 05", "#UD"),
    at64("0f 05", "syscall"),
    at64("50", "push rax"),
    at64("66 50", "push ax"),
    at64("48 50", "push rax"),
    at64("9c", "pushf"),
    at32("66 9c", "pushfw"),
    at16("66 60", "pushad"),
    at64("60", "#UD"),
    at64("82 c0 01", "#UD"),
    at32("82 c0 01", "add al,0x1"),
  ]

  static let operands = [
    at64("8d c0", "#UD"),
    at64("8e c8", "#UD"),
    at64("8e d0", "mov ss,eax"),
    at64("8e f0", "#UD"),
    at64("8c f8", "#UD"),
    at64("44 8e c0", "mov es,eax"),
    at64("0f 20 c0", "mov rax,cr0"),
    at32("0f 20 00", "mov eax,cr0"),
    at64("0f 22 c8", "#UD"),
    at64("44 0f 20 c0", "mov rax,cr8"),
    at64("44 0f 22 c8", "#UD"),
    at64("44 0f 23 c0", "#UD"),
    at64("0f 23 f8", "mov dr7,rax"),
    at64("0f 24 c0", "#UD"),
    at64("0f b2 c0", "#UD"),
    at64("0f c7 c8", "#UD"),
    at64("0f c7 f0", "rdrand eax"),
    at64("0f 01 f8", "swapgs"),
    at32("0f 01 f8", "#UD"),
    at64("0f 01 f9", "rdtscp"),
    at64("0f 01 38", "invlpg BYTE PTR [rax]"),
    at64("0f 01 e0", "smsw eax"),
    at64("0f 00 c8", "str eax"),
    at64("0f 12 c1", "movhlps xmm0,xmm1"),
    at64("0f 12 01", "movlps xmm0,QWORD PTR [rcx]"),
    at64("66 0f 12 c1", "#UD"),
    at64("0f 13 c1", "#UD"),
    at64("0f e7 c1", "#UD"),
    at64("45 0f 6f c1", "movq mm0,mm1"),
    at64("66 48 0f 6e c0", "movq xmm0,rax"),
    at64("66 0f 6e c0", "movd xmm0,eax"),
    at64("66 0f 3a 14 c0 01", "pextrb eax,xmm0,0x1"),
    at64("66 0f 3a 14 00 01", "pextrb BYTE PTR [rax],xmm0,0x1"),
    at64("0f c2 c1 01", "cmpltps xmm0,xmm1"),
    at64("0f c2 c1 21", "cmpps xmm0,xmm1,0x21"),
    at64("f3 0f c7 c8", "#UD"),
    at64("f3 0f ae c0", "rdfsbase eax"),
    at64("0f ae e8", "lfence"),
    at64("0f ae 28", "xrstor [rax]"),
    at64("48 0f ae 00", "fxsave64 [rax]"),
    at64("66 0f 71 00 01", "#UD"),
    at64("8f c8", "#UD"),
    at64("c6 c8 01", "#UD"),
    at64("fe d0", "#UD"),
    at64("ff f8", "#UD"),
  ]

  static let nops = [
    at64("90", "nop"),
    at64("f3 90", "pause"),
    at64("41 90", "xchg r8d,eax"),
    at64("49 90", "xchg r8,rax"),
    at64("48 90", "nop"),
    at64("87 c0", "xchg eax,eax"),
    at64("66 0f 1f 44 00 00", "nop WORD PTR [rax+rax*1+0x0]"),
    at64("0f 18 00", "prefetchnta BYTE PTR [rax]"),
    at64("0f 18 c0", "nop eax"),
    at64("0f 19 00", "nop DWORD PTR [rax]"),
    at64("f3 0f 1e fa", "endbr64"),
    at64("0f 1e fa", "nop edx"),
    at64("0f ff c0", "ud0 eax,eax"),
    at64("0f b9 c0", "ud1 eax,eax"),
    at64("0f 0b", "ud2"),
    at64("0f 04", "#UD"),
    at64("0f 0f c0 9e", "#UD"),
  ]

  static let x87 = [
    at64("d8 c1", "fadd st,st(1)"),
    at64("dc c1", "fadd st(1),st"),
    at64("dc e1", "fsubr st(1),st"),
    at64("dc e9", "fsub st(1),st"),
    at64("de e9", "fsubp st(1),st"),
    at64("d9 c9", "fxch st(1)"),
    at64("d9 e8", "fld1"),
    at64("d9 e2", "#UD"),
    at64("db 28", "fld TBYTE PTR [rax]"),
    at64("df 20", "fbld TBYTE PTR [rax]"),
    at64("df e0", "fnstsw ax"),
    at64("dd 30", "fnsave [rax]"),
    at64("da c1", "fcmovb st,st(1)"),
    at64("41 d9 c1", "fld st(1)"),
  ]

  @Test(arguments: prefixes + lock + addressing + immediates + branches + modes + operands + nops + x87)
  func encodingIsDecodedAsTheManualSays(encoding: Encoding) {
    #expect(outcome(code(encoding.text), encoding.mode) == encoding.expected)
  }

  @Test(arguments: prefixes + lock + addressing + immediates + branches + modes + operands + nops + x87)
  func everyPartOfAnInstructionNeedsMoreBytes(encoding: Encoding) {
    let bytes = code(encoding.text)
    guard case .instruction(let instruction) = decode(bytes, encoding.mode) else { return }
    for count in 0..<Int(instruction.length) {
      #expect(outcome(Array(bytes[0..<count]), encoding.mode) == "more")
    }
  }
}
