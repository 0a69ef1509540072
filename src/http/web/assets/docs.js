import { currentKey, urlOf } from './credentials.js';

/** Starts Swagger UI, which an earlier classic script has loaded. */
const dark = matchMedia('(prefers-color-scheme: dark)').matches;
document.documentElement.classList.toggle('dark-mode', dark);

const key = currentKey();

const ui = globalThis.SwaggerUIBundle({
  url: urlOf('/openapi.json'),
  dom_id: '#docs',
  deepLinking: true,
  displayRequestDuration: true,
  // The validator badge would call another server.
  validatorUrl: null,
  requestInterceptor(request) {
    if (key !== undefined && request.loadSpec) request.headers.authorization = `Bearer ${key}`;
    return request;
  },
  // "Try it out" then sends the key too.
  onComplete() {
    if (key !== undefined) ui.preauthorizeApiKey('bearer', key);
  },
});
