/** The programs in examples/ that speak OpenAI's API, against the demo model as after `npm start`. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { text as readText } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { provideProgram } from '../support/debian.ts';
import { startServer, type TestServer } from '../support/server.ts';

/** Of each program another one: the server finds a conversation by its messages. */
const questionOf = (file: string) => `Hello from ${file}`;

describe('the examples of clients', { concurrency: true }, () => {
  let server: TestServer;
  before(async () => {
    provideProgram('curl', 'curl');
    server = await startServer();
  });
  after(() => server.stop());

  async function run(program: string, file: string): Promise<string> {
    const path = fileURLToPath(new URL(`../../examples/${file}`, import.meta.url));
    const env = { ...process.env, API_URL: server.url, no_proxy: '*' };
    const child = spawn(program, [path, questionOf(file)], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    return readText(child.stdout);
  }

  for (const file of ['openai.mjs', 'ai-sdk.mjs', 'langchain.mjs']) {
    it(`${file} streams, continues, and uses a tool`, async () => {
      const output = await run(process.execPath, file);
      assert.match(output, new RegExp(`“${questionOf(file)}”.*“And again\\?”.*Paris: 21 °C, sunny`, 's'));
      const conversations = [...output.matchAll(/\[conversation (\S+)\]/g)].map(([, id]) => id);
      // LangChain shows no headers.
      if (file !== 'langchain.mjs') assert.equal(conversations.length, 2, output);
      assert(new Set(conversations).size <= 1, output);
    });
  }

  it('curl.sh keeps two replies in one conversation', async () => {
    const output = await run('sh', 'curl.sh');
    assert.match(output, /"object":"list".*"object":"chat.completion".*data: \[DONE\]/s);
    const { messages } = JSON.parse(output.trim().split('\n').at(-1) ?? '');
    assert.deepEqual(
      messages.map(({ role, content }: { role: string; content: string }) =>
        role === 'user' ? content : role,
      ),
      [questionOf('curl.sh'), 'assistant', 'And again?', 'assistant'],
    );
  });
});
