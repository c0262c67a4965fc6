#!/usr/bin/env bash
# A release: tools/release.sh VERSION [--upload]
# Checks that the tree is clean and the version told everywhere, runs all of CI and the package's own checks, and leaves in
# dist/: wheel, sdist, SHA256SUMS, sbom.json (CycloneDX) and licences.md of everything a user may get. With --upload: to PyPI,
# and a signed tag. `tools/release.sh licences` makes the last two alone, and docs/snippets/licences.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
upload=${2:-}

fail() { echo "release: $1" >&2; exit 1; }

# of all extras that users may ask for, in an environment of its own
licences() {
    local env extras
    env=$(mktemp -d)
    extras=$("$python" -c "import tomllib; e = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']
print(','.join(sorted(set(e) - {'dev', 'serve-dev', 'fleet-dev', 'docs', 'release'})))")
    "$python" -m venv "$env"
    "$env/bin/pip" install --quiet -c constraints.txt ".[$extras]"
    "$python" -m cyclonedx_py environment "$env/bin/python" --pyproject pyproject.toml --output-reproducible -o dist/sbom.json
    "$python" -m piplicenses --python "$env/bin/python" --from=mixed --format=markdown --order=name \
        --ignore-packages inlier > dist/licences.md
    cp dist/licences.md docs/snippets/licences.md
    rm -rf "$env"
}

version=${1:?usage: tools/release.sh VERSION [--upload], or tools/release.sh licences}
mkdir -p dist
if [ "$version" = licences ]; then licences; exit; fi

[ -z "$(git status --porcelain)" ] || fail "the tree has changes"
grep -qx "__version__ = \"$version\"" src/inlier/version.py || fail "src/inlier/version.py tells another version"
grep -q "^## $version (20" CHANGELOG.md || fail "CHANGELOG.md has no dated entry $version"
git rev-parse -q --verify "refs/tags/v$version" >/dev/null && fail "there is a tag v$version"
.ci/run
make package
rm -rf dist && mkdir dist
"$python" -m build --outdir dist .
"$python" -m twine check --strict dist/*
licences
[ -z "$(git status --porcelain)" ] || fail "docs/snippets/licences.md or docs/snippets/package.txt is new: look at it, and commit it first"
(cd dist && sha256sum -- * > SHA256SUMS)
echo "dist/ is ready"
if [ "$upload" = --upload ]; then
    git tag -s "v$version" -m "inlier $version"
    "$python" -m twine upload dist/*.whl dist/*.tar.gz
    echo "now: git push origin v$version"
fi
