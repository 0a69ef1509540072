import { fileURLToPath } from 'node:url';
import packageJson from '../../package.json' with { type: 'json' };
import { launchChromium, provideChineseFonts } from '../support/chromium.ts';
import { startServer } from '../support/server.ts';
import { ask, openAlone } from './page.ts';
import { startUpstream } from './upstream.ts';

const ANSWERS = {
  '用一句话说明什么是 SSE？':
    'SSE（Server-Sent Events）是一种 Web 标准：服务器不结束 HTTP 响应，持续向客户端推送文本事件。',
  'And when would WebSockets be the better choice?':
    'When both sides have to talk at any time:\n- games and whiteboards shared by several people\n- binary data, such as audio',
};

/** Takes the picture of the home page that the README shows. */
export async function takePicture(chromium: string): Promise<void> {
  provideChineseFonts();
  const upstream = await startUpstream(ANSWERS);
  const [server, browser] = await Promise.all([
    startServer({ OPENAI_BASE_URL: upstream.baseUrl }),
    launchChromium(chromium),
  ]);
  const viewport = { width: 1200, height: 800 };
  const { page } = await openAlone(browser, server.url, { viewport, locale: 'zh-CN' });
  for (const question of Object.keys(ANSWERS)) await ask(page, question);
  await page.locator('[data-part="upstream"][data-state="good"]').waitFor();
  await page.evaluate(`
    document.querySelector('.version').textContent = 'v${packageJson.version}';
    for (const pre of document.querySelectorAll('pre')) pre.textContent = pre.textContent.replace(/:\\d+/, ':5010');
  `);
  await page.screenshot({ path: fileURLToPath(new URL('../../docs/images/home.png', import.meta.url)) });
  await browser.close();
  await server.stop();
  await upstream.close();
}
