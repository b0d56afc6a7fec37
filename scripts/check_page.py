#!/usr/bin/env python3
"""Checks the page of `quantkit serve` in a real browser, and takes pictures of it.

    pip install playwright; apt install chromium
    scripts/check_page.py target/release/quantkit model.F16.gguf model.Q4_K_M.gguf [--pictures FOLDER]

The models need the same vocabulary. The browser may reach this machine only.
"""

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import urllib.request

from playwright.sync_api import expect, sync_playwright

PROMPT = "Tell me in two sentences why the sky is blue."
KEY = "a-key-for-the-page"
SIZES = {"1200": {"width": 1200, "height": 900}, "390": {"width": 390, "height": 844}}
TIMEOUT = 120_000


@contextlib.contextmanager
def serving(binary, models, *options):
    """The address of a server of these models."""
    command = [binary, "--quiet", "serve", *models, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().split(" ")[0].strip()
        finally:
            server.terminate()
            server.wait(30)


def check(what, is_so):
    print(("ok    " if is_so else "WRONG ") + what, flush=True)
    if not is_so:
        raise SystemExit(1)


def watched_page(browser, address, **options):
    """A page whose complaints, and requests to elsewhere, are collected."""
    page = browser.new_context(**options).new_page()
    page.complaints = []
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.complaints.append(asked.url) if not asked.url.startswith(address) else None)
    page.goto(address + "/")
    return page


def is_wide(page):
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def ask(page, prompt, tokens):
    page.get_by_label("Max tokens").fill(str(tokens))
    page.locator("#prompt").fill(prompt)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("status")).to_have_text("Done.", timeout=TIMEOUT)


def contrast(page, selector):
    """The contrast of an element's text with what is behind it, as WCAG defines it."""
    return page.evaluate(
        """(selector) => {
          const element = document.querySelector(selector);
          const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
          let behind = element;
          while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
          const light = (color) => {
            const [r, g, b] = numbers(color).slice(0, 3).map((x) => x / 255)
              .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = behind ? getComputedStyle(behind).backgroundColor : getComputedStyle(document.body).backgroundColor;
          const [a, b] = [light(getComputedStyle(element).color), light(ground)].sort((x, y) => y - x);
          return (a + 0.05) / (b + 0.05);
        }""",
        selector,
    )


def check_comparison(browser, address, pictures):
    for width, size in SIZES.items():
        for scheme in ("light", "dark"):
            page = watched_page(browser, address, viewport=size, color_scheme=scheme, has_touch=width == "390")
            expect(page.locator("#form")).to_be_visible()
            page.screenshot(path=pictures / f"empty-{width}-{scheme}.png")
            ask(page, PROMPT, 64)
            check(f"{width} {scheme}: two answers", page.locator(".answer").count() == 2)
            check("both have tokens", all(page.locator(".answer").nth(i).locator(".token").count() > 5 for i in (0, 1)))
            check("nothing is wider than the screen", not is_wide(page))
            figures = page.locator(".answer").nth(1).locator("dl").inner_text()
            check("KL and speed are told", all(name in figures for name in ("First token", "Tokens per second", "Mean KL")))
            note = page.locator(".answer").nth(1).locator(".note").inner_text()
            marked = page.locator(".answers .token.parts").count()
            check(f"where they part is marked: {note}", marked == ("First difference" in note) and note != "")
            check("the divergences are drawn", page.locator(".strip rect").count() == page.locator(".answer").nth(0).locator(".token").count())
            page.locator(".answers .token").nth(3).click()
            expect(page.locator("#details")).to_be_visible()
            check("a token is explained", "rank" in page.locator("#details-body").inner_text())
            check("with its divergence", "KL to" in page.locator("#details-body").inner_text())
            page.screenshot(path=pictures / f"answer-{width}-{scheme}.png", full_page=True)
            for selector in ("#subtitle", "#ask", ".hint", ".figures dt", ".note", ".strip figcaption", *(f".scale .p{i}" for i in range(5))):
                ratio = contrast(page, selector)
                check(f"contrast of {selector}: {ratio:.1f}", ratio >= 4.5)
            check(f"no complaints: {page.complaints}", not page.complaints)
            page.context.close()


def check_keyboard(browser, address):
    page = watched_page(browser, address, viewport=SIZES["1200"])
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("The capital of France is <b>not</b>")
    page.get_by_label("Max tokens").fill("16")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_have_text("Done.", timeout=TIMEOUT)
    check("a question is text, not HTML", page.locator(".question b").count() == 0 and "<b>not</b>" in page.locator(".question").inner_text())
    answer = page.locator(".answer").nth(1).locator(".text")
    answer.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    check("arrow keys go from token to token", answer.locator(".token").nth(2).get_attribute("class").find("selected") > 0)
    check("and that is read out", page.locator("#details").get_attribute("aria-live") == "polite")
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_be_hidden()
    # Everything can be reached by key.
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    check(f"the tab key reaches all: {sorted(reached)}", {"prompt", "max-tokens", "temperature", "at-once", "ask", "text"} <= reached)
    page.get_by_label("Max tokens").fill("4000")
    page.locator("#prompt").fill("Count to ten thousand.")
    page.keyboard.press("Control+Enter")
    page.locator(".answer .token").nth(3).wait_for(timeout=TIMEOUT)
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    page.get_by_label("Run all at once").check()
    ask(page, "Water is", 8)
    check("all at once works", page.locator(".answer").nth(1).locator(".token").count() > 0)
    check(f"no complaints: {page.complaints}", not page.complaints)
    page.context.close()


def check_chat(browser, address, pictures):
    page = watched_page(browser, address, viewport=SIZES["390"], color_scheme="light")
    expect(page.locator("#key-form")).to_be_visible()
    page.screenshot(path=pictures / "key-390-light.png")
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#problem")).to_have_text("The server does not know this key.")
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#form")).to_be_visible()
    page.get_by_label("Temperature").fill("0")
    ask(page, "Name a colour.", 24)
    check("one answer", page.locator(".answer").count() == 1)
    ask(page, "Name another one.", 24)
    check("the conversation goes on", page.locator(".turn").count() == 2)
    check("nothing is wider than the screen", not is_wide(page))
    page.screenshot(path=pictures / "chat-390-light.png", full_page=True)
    # Refused requests are told as such by the browser.
    others = [said for said in page.complaints if "401" not in said]
    check(f"no complaints: {others}", not others)
    page.context.close()


def check_policy(address):
    for path in ("/", "/page.js", "/page.css", "/page.svg"):
        with urllib.request.urlopen(address + path) as response:
            policy = response.headers["content-security-policy"]
            check(f"{path} has a policy", policy.startswith("default-src 'none'") and "unsafe" not in policy)
            text = response.read().decode()
            foreign = [url for url in re.findall(r"https?://[^\"' )]+", text) if "www.w3.org" not in url]
            check(f"{path} names nothing foreign: {foreign}", not foreign)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("models", nargs=2)
    parser.add_argument("--pictures", type=pathlib.Path, default=pathlib.Path("pictures"))
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    rules = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", f"--host-resolver-rules={rules}"]
        )
        with serving(arguments.binary, arguments.models) as address:
            check_policy(address)
            check_comparison(browser, address, arguments.pictures)
            check_keyboard(browser, address)
        with serving(arguments.binary, arguments.models[:1], "--api-key", KEY) as address:
            check_chat(browser, address, arguments.pictures)
        browser.close()
    print(json.dumps({"pictures": str(arguments.pictures)}))


if __name__ == "__main__":
    main()
