/** A headless Chromium for tests. */
import { existsSync } from 'node:fs'
import { type Browser, chromium } from 'playwright-core'
import type { Test } from 'tap'

const FOUND = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
const EXECUTABLE = [process.env.MMSB_CHROMIUM ?? '', ...FOUND].find((path) => existsSync(path))
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** For the option `skip` of a test. In CI it must not be skipped. */
export const skipWithoutChromium =
  EXECUTABLE === undefined && process.env.CI === undefined && 'skipped: no Chromium'

/** Starts a browser, which ends with the test. */
export async function launchChromium(t: Test): Promise<Browser> {
  t.ok(EXECUTABLE, 'there is a Chromium: install Debian’s package, or set MMSB_CHROMIUM')
  const browser = await chromium.launch({
    ...(EXECUTABLE === undefined ? {} : { executablePath: EXECUTABLE }),
    headless: true,
    args: FLAGS,
    chromiumSandbox: false,
  })
  t.teardown(() => browser.close())
  return browser
}
