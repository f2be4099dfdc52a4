/* SPDX-License-Identifier: MIT */
/* Counts and builds through the public header, DLPack included, without any setting of its own. */
#include <cstdio>
#include <tenon/tenon.h>

int main()
{
    tenon_error error;
    tenon_config *config = nullptr;
    tenon_adapter *adapter = nullptr;
    int64_t tokens = 0;
    if (tenon_config_new("avgpool", &config, &error) != TENON_OK ||
        tenon_config_set_int(config, "pool_window", 3, &error) != TENON_OK ||
        tenon_adapter_new(config, 8, 6, nullptr, &adapter, &error) != TENON_OK ||
        tenon_adapter_output_num_tokens(adapter, nullptr, 729, &tokens, &error) != TENON_OK) {
        std::fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    std::printf("729 patches -> %d tokens, elements of %d bits\n", static_cast<int>(tokens),
                tenon_dtype_to_dlpack(TENON_BF16).bits);
    tenon_adapter_free(adapter);
    tenon_config_free(config);
    return 0;
}
