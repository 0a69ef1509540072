import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { ERROR_CODES } from '../../src/domain/errors.ts';
import { withoutComments } from '../../src/http/web/page-files.ts';
import { ERRORS, STRINGS } from '../../src/http/web/strings.js';

const WEB = new URL('../../src/http/web/', import.meta.url);
const read = (file: string) => readFileSync(new URL(file, WEB), 'utf8');

type Palette = ReadonlyMap<string, string>;

function palette(css: string): Palette {
  return new Map(
    [...css.matchAll(/--([\w-]+): (#[\da-f]{6});/g)].map((found) => [`${found[1]}`, `${found[2]}`]),
  );
}

/** Relative luminance (WCAG 2.2). */
function luminance(colour: string): number {
  const [r = 0, g = 0, b = 0] = [1, 3, 5].map((at) => {
    const value = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(colours: Palette, front: string, back: string): number {
  const [a, b] = [front, back].map((name) => {
    const colour = colours.get(name);
    assert.ok(colour, `there is no colour ${name}`);
    return luminance(colour) + 0.05;
  }) as [number, number];
  return Math.max(a, b) / Math.min(a, b);
}

/** Text on what it stands on; for `edge` the border of a control, for which 3 is enough. */
const PAIRS = [
  'text page, text card, text soft, text bad-soft, text demo-soft',
  'quiet page, quiet card, on-strong strong, strong card, strong page',
  'good page, bad page, bad card, demo page, demo demo-soft, bad bad-soft, edge card',
]
  .join(', ')
  .split(', ')
  .map((pair) => pair.split(' ') as [string, string]);

describe('the home page', () => {
  const css = read('styles/style.css');
  const [light = '', dark = ''] = css.split('@media (prefers-color-scheme: dark)');

  for (const [name, colours] of [
    ['light', palette(light)],
    ['dark', palette(dark)],
  ] as const) {
    test(`has enough contrast everywhere in its ${name} colours`, () => {
      for (const [front, back] of PAIRS) {
        const least = front === 'edge' ? 3 : 4.5;
        const got = contrast(colours, front, back);
        assert.ok(got >= least, `${front} on ${back} has ${got.toFixed(2)}, wanted ${least}`);
      }
    });
  }

  test('is served without its comments, and with everything else', () => {
    const files = globSync(['assets/**/*.js', 'styles/*.css'], { cwd: WEB });
    for (const file of files) {
      const served = withoutComments(read(file)).split('\n');
      const lines = read(file).split('\n');
      const isComment = (line: string) => /^ *(\/\*| \*|\/\/)/.test(line);
      assert.deepEqual(
        served,
        lines.filter((line) => !isComment(line)),
        file,
      );
    }
  });

  test('has every text in both languages, and no unused text', () => {
    const scripts = globSync('assets/**/*.js', { cwd: WEB });
    const used = ['index.html', ...scripts].map(read).join('\n');
    for (const key of Object.keys(STRINGS))
      assert.match(used, new RegExp(`['"]${key}['"]`), `${key} is unused`);
    assert.deepEqual(Object.keys(ERRORS), Object.keys(ERROR_CODES));
    assert.equal(
      Object.keys({ ...STRINGS, ...ERRORS }).length,
      Object.keys(STRINGS).length + Object.keys(ERRORS).length,
    );
    for (const [key, sentences] of [...Object.entries(STRINGS), ...Object.entries(ERRORS)]) {
      const [zh, en] = sentences;
      assert.ok(zh !== '' && en !== '' && sentences.length === 2, key);
      assert.deepEqual(zh.match(/\{\w+\}/g)?.toSorted(), en.match(/\{\w+\}/g)?.toSorted(), key);
      assert.match(zh, /\p{Script=Han}/u, key);
      assert.doesNotMatch(en, /\p{Script=Han}/u, key);
    }
    const keys = [...used.matchAll(/data-t(?:-[a-z-]+)?="(\w+)"/g)].map((found) => `${found[1]}`);
    assert.deepEqual(
      keys.filter((key) => STRINGS[key] === undefined),
      [],
    );
  });
});
