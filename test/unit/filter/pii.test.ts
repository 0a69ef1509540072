import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  maskBankCards,
  maskEmails,
  maskIdCards,
  maskInSteps,
  maskMobiles,
  maskPersonal,
} from '../../../src/filter/index.ts';
import { rounds } from '../../support/random.ts';
import { ticksDuring } from '../../support/ticks.ts';

/** Quadratic work takes minutes for so many. */
const LENGTH = rounds(250_000, 1_000_000);

type Cases = readonly (readonly [string, string])[];

function holds(mask: (text: string) => string, cases: Cases): void {
  for (const [text, output] of cases) it(`${text} → ${output}`, () => assert.equal(mask(text), output));
}

describe('a mobile number is masked', () => {
  holds(maskMobiles, [
    ['13812345678', '138****5678'],
    ['电话：13812345678。', '电话：138****5678。'],
    ['+86 138-1234-5678', '+86 138-****-5678'],
    ['008613812345678', '0086138****5678'],
    ['138 1234 5678', '138 **** 5678'],
    ['１３８１２３４５６７８', '１３８****５６７８'],
  ]);
});

describe('not a mobile number, so unchanged, is', () => {
  const same = [
    '12812345678',
    '1381234567',
    '138123456789',
    '913812345678',
    '0.13812345678',
    '138-12-345678',
  ];
  holds(
    maskMobiles,
    same.map((text) => [text, text] as const),
  );
});

describe('an identity card number is masked', () => {
  holds(maskIdCards, [
    ['11010519491231002X', '110***********002X'],
    ['11010519491231002x', '110***********002x'],
    ['证号440524188001010014，', '证号440***********0014，'],
  ]);
});

describe('not an identity card number, so unchanged, is', () => {
  const same = [
    '110105194912310021',
    '11010519491331002X',
    '110105194902310026',
    '1110105194912310020',
    '4405241880010100149',
  ];
  holds(
    maskIdCards,
    same.map((text) => [text, text] as const),
  );
});

describe('an e-mail address is masked', () => {
  holds(maskEmails, [
    ['zhang.san+x@mail.example.com', 'z***@mail.example.com'],
    ['邮箱是a@b.cn。', '邮箱是a***@b.cn。'],
    ['<me@x.org>, you@x.org.', '<m***@x.org>, y***@x.org.'],
    ['13812345678@qq.com', '1***@qq.com'],
  ]);
});

describe('not an e-mail address, so unchanged, is', () => {
  const same = ['a@b', '@b.com', 'a@', 'a@@b.com', 'a@b..com', 'npm i @scope/name@1.2.3', 'a@-b.com'];
  holds(
    maskEmails,
    same.map((text) => [text, text] as const),
  );
});

describe('a bank card number is masked', () => {
  holds(maskBankCards, [
    ['4111111111111111', '411*********1111'],
    ['4111 1111 1111 1111', '411* **** **** 1111'],
    ['6222-0212-3456-7890-128', '622*-****-****-***0-128'],
    ['378282246310005', '378********0005'],
    ['3782 822463 10005', '378* ****** *0005'],
    ['卡号4111111111111111，金额 5000', '卡号411*********1111，金额 5000'],
    ['2024 4111 1111 1111 1111 2025', '2024 411* **** **** 1111 2025'],
  ]);
});

describe('not a bank card number, so unchanged, is', () => {
  const same = [
    '4111111111111112',
    '411111111111',
    '41111111111111111111',
    '1700000000005',
    '4111  1111  1111  1111',
    '41 11 11 11 11 11 11 11',
    '4111,1111,1111,1111',
  ];
  holds(
    maskBankCards,
    same.map((text) => [text, text] as const),
  );
});

describe('all masks together', () => {
  it('do not confuse one kind with another', () => {
    const text = '13812345678 11010519491231002X 4111111111111111 a@b.cn';
    assert.equal(maskPersonal(text), '138****5678 110***********002X 411*********1111 a***@b.cn');
  });

  it('change nothing when applied twice', () => {
    const once = maskPersonal('13812345678 11010519491231002X 4111 1111 1111 1111 a@b.cn');
    assert.equal(maskPersonal(once), once);
  });

  it('give the same in steps, wherever these end', async () => {
    const part = fc.constantFrom(
      ...['13812345678', '138 1234 5678', '+86 138-1234-5678', '11010519491231002X', '4111 1111 1111 1111'],
      ...['a.b-c@d.example', 'z@example.com', '0.', ' ', '  ', '-', 'x', '。', '\n', '１', '中文 ', 'end. '],
    );
    const texts = fc.array(part, { maxLength: 30 }).map((parts) => parts.join(''));
    await fc.assert(
      fc.asyncProperty(texts, fc.integer({ min: 0, max: 40 }), async (text, step) => {
        assert.equal(await maskInSteps(text, step), maskPersonal(text));
      }),
    );
  });

  it('block nothing for long, also for a reply of 1.5 MB in one line', async () => {
    for (const piece of ['words of a line, ', '中文字符', 'a@b.example ']) {
      const text = piece.repeat(1_500_000 / piece.length);
      const { longest, count } = await ticksDuring(() => maskInSteps(text));
      assert.ok(count > 20 && longest < 50, `${piece}: ${longest} ms, ${count} turns`);
    }
  });

  for (const piece of [
    '1',
    '4111 ',
    '138-',
    '8613',
    'a',
    'a@',
    'a.',
    '@a.a',
    '@',
    '86 ',
    '１',
    'a@a-a.',
    '6222 0212-',
  ]) {
    it(`cost no more for ${LENGTH} characters of ${piece}`, () => {
      const text = piece.repeat(Math.ceil(LENGTH / piece.length));
      const start = process.cpuUsage();
      maskPersonal(text);
      const { user, system } = process.cpuUsage(start);
      assert.ok(user + system < 3 * LENGTH, `${user + system} µs`);
    });
  }
});
