# Bash completion of tenon. Made by scripts/make_cli_docs.sh from the option tables; do not edit.

_tenon_words() {
    COMPREPLY=($(compgen -W "$1" -- "$current"))
}

_tenon_files() {
    COMPREPLY=($(compgen -f -- "$current"))
}

_tenon_options() {
    if [[ $current == -* ]]; then _tenon_words "$1"; else _tenon_files; fi
}

_tenon_tokens() {
    case "$previous" in
        --type ) _tenon_words "$(tenon --print-values types 2>/dev/null)" ;;
        --ragged ) _tenon_words "reject partial drop" ;;
        --window) ;;
        --grid) ;;
        --image) ;;
        --patch) ;;
        --prefix-tokens) ;;
        --option) ;;
        --frames) ;;
        --text) ;;
        --max-seq) ;;
        *) _tenon_options "--type --window --grid --image --patch --prefix-tokens --ragged --option --frames --text --max-seq --json --help" ;;
    esac
}

_tenon_init() {
    case "$previous" in
        --type ) _tenon_words "$(tenon --print-values types 2>/dev/null)" ;;
        --activation ) _tenon_words "gelu gelu_tanh quick_gelu silu relu" ;;
        --ragged ) _tenon_words "reject partial drop" ;;
        --dtype ) _tenon_words "f32 bf16 f16" ;;
        --output|-o) _tenon_files ;;
        --in-dim) ;;
        --out-dim) ;;
        --hidden) ;;
        --window) ;;
        --heads) ;;
        --prefix-tokens) ;;
        --option) ;;
        --seed) ;;
        *) _tenon_options "--type --in-dim --out-dim --hidden --activation --window --heads --ragged --prefix-tokens --option --seed --dtype --output --json --help" ;;
    esac
}

_tenon_inspect() {
    case "$previous" in
        --config ) _tenon_files ;;
        --window) ;;
        --grid) ;;
        --in-dim) ;;
        --out-dim) ;;
        --prefix) ;;
        --rename) ;;
        --family) ;;
        --activation) ;;
        *) _tenon_options "--window --grid --in-dim --out-dim --prefix --rename --config --family --activation --all --dot --json --help" ;;
    esac
}

_tenon_run() {
    case "$previous" in
        --output|-o) _tenon_files ;;
        --frame-mask ) _tenon_files ;;
        --patch-mask ) _tenon_files ;;
        --attention ) _tenon_files ;;
        --dtype ) _tenon_words "f32 bf16 f16" ;;
        --config ) _tenon_files ;;
        --cpu ) _tenon_words "$(tenon --print-values levels 2>/dev/null)" ;;
        --device ) _tenon_words "cpu" ;;
        --window) ;;
        --grid) ;;
        --prefix-tokens) ;;
        --prefix) ;;
        --rename) ;;
        --family) ;;
        --activation) ;;
        --tensor) ;;
        --threads) ;;
        *) _tenon_options "--output --window --grid --prefix-tokens --frame-mask --patch-mask --attention --dtype --prefix --rename --config --family --activation --tensor --npy-bf16 --threads --cpu --device --check-finite --force --json --help" ;;
    esac
}

_tenon_fit() {
    case "$previous" in
        --model ) _tenon_files ;;
        --features ) _tenon_files ;;
        --targets ) _tenon_files ;;
        --output|-o) _tenon_files ;;
        --loss ) _tenon_words "mse cosine smooth_l1" ;;
        --checkpoint ) COMPREPLY=($(compgen -d -- "$current")) ;;
        --log ) _tenon_files ;;
        --config ) _tenon_files ;;
        --cpu ) _tenon_words "$(tenon --print-values levels 2>/dev/null)" ;;
        --steps) ;;
        --epochs) ;;
        --batch) ;;
        --accumulate) ;;
        --lr) ;;
        --warmup) ;;
        --min-lr) ;;
        --weight-decay) ;;
        --beta1) ;;
        --beta2) ;;
        --eps) ;;
        --clip) ;;
        --freeze) ;;
        --seed) ;;
        --val-fraction) ;;
        --patience) ;;
        --every) ;;
        --window) ;;
        --grid) ;;
        --prefix) ;;
        --rename) ;;
        --family) ;;
        --activation) ;;
        --tensor) ;;
        --target-tensor) ;;
        --threads) ;;
        *) _tenon_options "--model --features --targets --output --loss --steps --epochs --batch --accumulate --lr --warmup --min-lr --weight-decay --decay-biases --beta1 --beta2 --eps --clip --freeze --no-master --save-activations --seed --val-fraction --patience --checkpoint --every --resume --skip-nonfinite --log --window --grid --prefix --rename --config --family --activation --tensor --target-tensor --npy-bf16 --threads --cpu --json --help" ;;
    esac
}

_tenon_compare() {
    case "$previous" in
        --tol) ;;
        --tensor) ;;
        *) _tenon_options "--tol --tensor --equal-nan --npy-bf16 --json --help" ;;
    esac
}

_tenon_families() {
    case "$previous" in
        *) _tenon_options "--json --help" ;;
    esac
}

_tenon_extract() {
    case "$previous" in
        --output|-o) _tenon_files ;;
        --config ) _tenon_files ;;
        --prefix) ;;
        --rename) ;;
        --family) ;;
        --activation) ;;
        *) _tenon_options "--output --prefix --rename --config --family --activation --json --help" ;;
    esac
}

_tenon_graft() {
    case "$previous" in
        --output|-o) _tenon_files ;;
        --type ) _tenon_words "F32 F16 BF16 Q8_0" ;;
        *) _tenon_options "--output --type --json --help" ;;
    esac
}

_tenon_bench() {
    case "$previous" in
        --dtype ) _tenon_words "f32 bf16 f16" ;;
        --cpu ) _tenon_words "$(tenon --print-values levels 2>/dev/null)" ;;
        --config ) _tenon_files ;;
        --tokens) ;;
        --batch) ;;
        --threads) ;;
        --window) ;;
        --grid) ;;
        --repeat) ;;
        --prefix) ;;
        --rename) ;;
        --family) ;;
        --activation) ;;
        *) _tenon_options "--tokens --batch --dtype --threads --window --grid --repeat --cpu --prefix --rename --config --family --activation --json --help" ;;
    esac
}

_tenon() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        _tenon_words "tokens init inspect run fit compare families extract graft bench help --version"
        return
    fi
    case "${COMP_WORDS[1]}" in
        help) _tenon_words "tokens init inspect run fit compare families extract graft bench" ;;
        tokens) _tenon_tokens ;;
        init) _tenon_init ;;
        inspect) _tenon_inspect ;;
        run) _tenon_run ;;
        fit) _tenon_fit ;;
        compare) _tenon_compare ;;
        families) _tenon_families ;;
        extract) _tenon_extract ;;
        graft) _tenon_graft ;;
        bench) _tenon_bench ;;
    esac
}

complete -o filenames -F _tenon tenon
